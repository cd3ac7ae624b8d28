"""Models, data, training loop, comparison and benchmark behind the `lsam-jax` command line."""
