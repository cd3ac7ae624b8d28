"""What is to be trained, and how."""

from lsam_jax.experiments.config.config import Config

__all__ = ["Config"]
