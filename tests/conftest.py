"""What every test starts from: eight emulated devices, and quick compilation.

Tests compile much and compute little, so XLA leaves out most optimizations (of code: what it counts
as operations stays the same), except where a test asks for what users get.
"""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimized():
    """All of XLA's optimizations, as users have them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Double precision."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
