"""Aux of a loss that is not made of arrays: strings, functions, numbers of Python.

`jax.value_and_grad` outside `jit` hands such things back as they are; a traced loss has arrays
only. So whatever is no array in aux is wrapped in a pytree node without leaves, and goes along
with the structure of aux.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Pair = tuple | list
"""What `(loss, aux)` may be, as for `jax.value_and_grad`."""


@jax.tree_util.register_static
class Constant:
    """A leaf of aux that is no array: part of the structure."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or type(self.value) is not type(other.value):
            return False
        if isinstance(self.value, np.ndarray):
            return np.array_equal(self.value, other.value)
        return self.value is other.value or bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))


def closed(loss_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The loss with aux, as a pair, of which every leaf is an array; another result as it is."""

    def with_arrays(params: Any) -> Any:
        out = loss_fn(params)
        if not isinstance(out, Pair) or len(out) != 2:
            return out
        return out[0], jax.tree.map(lambda x: x if _is_array(x) else Constant(x), out[1])

    return with_arrays


def opened(aux: Any) -> Any:
    """Aux as the loss returned it."""
    is_constant = lambda x: isinstance(x, Constant)  # noqa: E731
    return jax.tree.map(lambda x: x.value if is_constant(x) else x, aux, is_leaf=is_constant)


def pair(out: Any, has_aux: bool) -> tuple[Any, Any]:
    """Loss and aux (None without), of what a loss function returned.

    Raises:
      TypeError: if that does not match `has_aux`.
    """
    if isinstance(out, Pair) and not has_aux:
        raise TypeError(
            f"The loss function returned a {type(out).__name__} of {len(out)}, not a scalar. If it "
            "is (loss, aux), use value_and_grad(..., has_aux=True); a value_fn returns the loss "
            "only."
        )
    if has_aux and not (isinstance(out, Pair) and len(out) == 2):
        raise TypeError(f"With has_aux=True the loss function must return (loss, aux); got {out}.")
    return (out[0], out[1]) if has_aux else (out, None)


def loss_of(out: Any) -> Any:
    """The loss, of what a loss function returned with or without aux."""
    return out[0] if isinstance(out, Pair) else out


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | jax.core.Tracer) or hasattr(x, "__jax_array__")
