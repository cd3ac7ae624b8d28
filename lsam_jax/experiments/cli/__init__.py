"""The commands of ``lsam-jax``, one module each."""
