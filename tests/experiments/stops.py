"""A run that is stopped, and what it comes to."""

import signal

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.experiments.training.loop import Watcher


class StopAt(Watcher):
    """Asks a run to stop after some step."""

    def __init__(self, step):
        self._left = step
        self.began = None

    def start(self, program, step, history):
        self.began = step
        self._left -= step

    def step(self, metrics):
        self._left -= 1

    def stop(self):
        return signal.SIGTERM if self._left <= 0 else None


def assert_same_run(got, expected):
    assert got.history == expected.history
    for a, b in zip(jax.tree.leaves(got.state), jax.tree.leaves(expected.state), strict=True):
        assert a.dtype == b.dtype
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        plain = jax.random.key_data if is_key else np.asarray
        np.testing.assert_array_equal(plain(a), plain(b))
