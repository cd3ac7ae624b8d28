"""Many numbers as one kernel."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def at_once(update: Callable[[T], T], numbers: T) -> T:
    """`update(numbers)`, of a tree of scalars, which keep their types.

    XLA for the CPU makes a kernel of nearly each of them, and takes 20 ms for it; a small loop is
    one kernel. So there this is a loop. It runs twice, to the same end: XLA would unroll one that
    runs once, and what runs until it is told to stop has no derivative in reverse.

    >>> from lsam_jax.arrays.at_once import at_once
    >>> import jax.numpy as jnp
    >>> [float(x) for x in at_once(lambda x: (x[0] + x[1], x[0]), (jnp.ones(()), jnp.ones(())))]
    [2.0, 1.0]
    """

    def loop(numbers: T) -> T:
        def again(found: T, _: Any) -> tuple[T, None]:
            before, _ = jax.lax.optimization_barrier((numbers, found))  # or XLA would hoist it
            return update(before), None

        return jax.lax.scan(again, numbers, length=2)[0]

    return jax.lax.platform_dependent(numbers, cpu=loop, default=update)
