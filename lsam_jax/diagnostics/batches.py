"""What all measures share: the mean over batches, by one compiled function called for each.

Batches go through separate calls and not through a `lax.map`: XLA:CPU compiles the gradient of a
convolution inside a loop to scalar code, 50 to 100 times slower.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Loss = Callable[..., Any]
Calls = Sequence[tuple[Any, ...]]


def calls(args: tuple[Any, ...], batches: Any) -> Calls:
    """The arguments of each call of a loss, behind the parameters.

    Args:
      args: the same in each call.
      batches: for each call one more argument, in front of `args`; all of one shape. None for one
        call with `args` alone.

    Returns:
      One tuple for each call, its arrays on the device.

    Raises:
      ValueError: if there is no batch, or they differ in structure, shape or type.
    """
    if batches is None:
        return [jax.device_put(args)]
    found = list(batches)
    if not found:
        raise ValueError("batches is empty; give at least one, or None where args are all.")
    first = _shapes(found[0])
    for number, batch in enumerate(found):
        if _shapes(batch) != first:
            raise ValueError(
                f"batches[{number}] has the shapes {_shapes(batch)[1]}, but batches[0] has "
                f"{first[1]}. Make all of one size, as each counts the same; for a single batch "
                "write batches=[batch]."
            )
    # Once, and not again at each of a thousand points.
    args = jax.device_put(args)
    return [(jax.device_put(batch), *args) for batch in found]


def mean(of: Callable[[tuple[Any, ...]], Any], every: Calls) -> Any:
    """The mean of `of(arguments)`, a pytree of arrays, over the calls."""
    first, *others = every
    total = of(first)
    for arguments in others:
        total = jax.tree.map(jnp.add, total, of(arguments))
    return jax.tree.map(lambda x: x / len(every), total)


def scalar(loss_fn: Loss, params: Any, arguments: tuple[Any, ...]) -> jax.Array:
    """The loss, which must be one real number.

    Raises:
      TypeError: if it is something else.
    """
    out = loss_fn(params, *arguments)
    if isinstance(out, jax.Array) and out.ndim == 0 and jnp.issubdtype(out.dtype, jnp.floating):
        return out
    raise TypeError(f"loss_fn must return a real scalar, and nothing beside it; got {out}.")


def _shapes(batch: Any) -> tuple[Any, list[str]]:
    leaves, structure = jax.tree.flatten(batch)
    return structure, [f"{jnp.result_type(x)}{list(np.shape(x))}" for x in leaves]
