"""Training from Python: what `lsam-jax train` calls."""

from lsam_jax.experiments.training.loop import NonFiniteLossError, Result, Watcher, fit

__all__ = ["NonFiniteLossError", "Result", "Watcher", "fit"]
