"""What all measures share: the mean over batches, by one compiled function called for each.

Batches go through separate calls and not through a `lax.map`: XLA:CPU compiles the gradient of a
convolution inside a loop to scalar code, 50 to 100 times slower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays.apart import Apart, apart
from lsam_jax.arrays.vectors import widened

Loss = Callable[..., Any]


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["static"])
@dataclass(frozen=True)
class Part:
    """Some arguments of a loss, of which a compiled function traces the arrays alone.

    Attributes:
      arrays: those, by their place among the leaves.
      static: the structure, and the type and value of every leaf, None for an array's.
    """

    arrays: dict[int, Any]
    static: tuple[Any, tuple[tuple[type, Any], ...]]

    def values(self) -> Any:
        """The arguments."""
        treedef, leaves = self.static
        return Apart(self.arrays, [x for _, x in leaves], treedef).tree(self.arrays)


Calls = Sequence[tuple[Part, ...]]


def calls(args: tuple[Any, ...], batches: Any) -> Calls:
    """The arguments of each call of a loss, behind the parameters.

    Args:
      args: the same in each call. What is no array among them stays what it is, as in `jax.grad`.
      batches: for each call one more argument, in front of `args`; all of one shape. None for one
        call with `args` alone. Numbers in them are traced, as they may be others in each.

    Returns:
      Parts of the arguments of each call, their arrays on the device.

    Raises:
      ValueError: if there is no batch, or they differ in structure, shape or type.
      TypeError: if what is no array cannot be told from another.
    """
    behind = _part("args", args, _is_array)  # once, and not again at each of a thousand points
    if batches is None:
        return [(behind,)]
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
    return [(_part("batches", (batch,), _is_number), behind) for batch in found]


def mean(of: Callable[[Any], Any], every: Calls) -> Any:
    """The mean of `of(parts)`, a pytree of arrays, over the calls; in at least float32."""
    first, *others = every
    total = jax.tree.map(widened, of(first))
    for parts in others:
        total = jax.tree.map(lambda x, y: x + widened(y), total, of(parts))
    return jax.tree.map(lambda x: x / len(every), total)


def scalar(loss_fn: Loss, params: Any, parts: Sequence[Part]) -> jax.Array:
    """The loss, which must be one real number.

    Raises:
      TypeError: if it is something else.
    """
    out = loss_fn(params, *(x for part in parts for x in part.values()))
    if isinstance(out, jax.Array) and out.ndim == 0 and jnp.issubdtype(out.dtype, jnp.floating):
        return out
    raise TypeError(f"loss_fn must return a real scalar, and nothing beside it; got {out}.")


def _part(name: str, given: Any, is_array: Callable[[Any], bool]) -> Part:
    found = apart(given, lambda n, x: is_array(x))
    rest = [
        (type(None), None) if n in found.arrays else (type(x), x)
        for n, x in enumerate(found.leaves)
    ]
    for _, x in rest:
        try:
            hash(x)
        except TypeError:
            raise TypeError(
                f"{name} must hold arrays, or what Python can hash; got {x!r}: let loss_fn close "
                "over it."
            ) from None
    return Part(jax.device_put(found.arrays), (found.treedef, tuple(rest)))


def _is_array(x: Any) -> bool:
    return hasattr(x, "dtype") and not isinstance(x, type)


def _is_number(x: Any) -> bool:
    return _is_array(x) or (isinstance(x, int | float | complex) and not isinstance(x, bool))


def _shapes(batch: Any) -> tuple[Any, list[str]]:
    leaves, structure = jax.tree.flatten(batch)
    return structure, [
        f"{jnp.result_type(x)}{list(np.shape(x))}" if _is_number(x) else type(x).__name__
        for x in leaves
    ]
