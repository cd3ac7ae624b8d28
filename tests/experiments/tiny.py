"""The configuration that the tests train."""

from lsam_jax.experiments.config.config import Config

K = 2
TINY = Config(width=4, epochs=2, batch_size=32, options={"k": K})
STEPS = 2 * 4  # of the small data set
