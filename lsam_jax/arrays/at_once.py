"""Many numbers as one kernel."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def at_once(update: Callable[[T], T], numbers: T) -> T:
    """`update(numbers)`, of a tree of scalars, which keep their types.

    XLA for the CPU makes a kernel of nearly each of them, and takes 20 ms for it; a small loop is
    one kernel. So there this is a loop that runs once.

    >>> from lsam_jax.arrays.at_once import at_once
    >>> import jax.numpy as jnp
    >>> [float(x) for x in at_once(lambda x: (x[0] + x[1], x[0]), (jnp.ones(()), jnp.ones(())))]
    [2.0, 1.0]
    """

    def loop(numbers: T) -> T:
        once = jax.lax.optimization_barrier(jnp.ones((), jnp.int32))  # or XLA would unroll it
        return jax.lax.fori_loop(0, once, lambda _, x: update(x), numbers)

    return jax.lax.platform_dependent(numbers, cpu=loop, default=update)
