"""What every test starts from: eight emulated devices, and quick compilation.

Tests compile much and compute little, so XLA leaves out most optimizations (of code: what it counts
as operations stays the same), except where a test asks for what users get. Its older emitters of
code, and one module for a program, compile twice as fast as what users get, in every test: by
flags, of which a release that does not know one aborts.
"""

import os

import jax
import pytest

VERSION = jax.__version_info__[:2]
QUICK = ["--xla_cpu_parallel_codegen_split_count=1"]
QUICK += ["--xla_cpu_use_fusion_emitters=false"] if VERSION < (0, 11) else []

os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK])  # of commands too
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of commands


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


class Compilations:
    """Counts what XLA compiles."""

    def __init__(self):
        self.count = 0

    def __call__(self, event, *args, **kwargs):
        self.count += event == "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    counter = Compilations()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.clear_event_listeners()
