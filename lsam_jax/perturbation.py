"""How far the weights move uphill: from an ascent gradient to perturbed weights.

A perturbation is a function `(g, w, group, rho) -> w'` of lists of arrays, one for each array
that may move: the ascent gradients `g` (zero where a layer is not selected), the weights, the
layer that each array belongs to, and the radius. A zero gradient moves nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax.layers import sum_of_squares

Perturbation = Callable[[Sequence[Any], Sequence[Any], Sequence[int], Any], list[Any]]


def plain(g: Sequence[Any], w: Sequence[Any], group: Sequence[int], rho: Any) -> list[Any]:
    """`w + rho g`: the paper's (eq. 6)."""
    del group
    return [_move(x, d, rho) for x, d in zip(w, g)]


def normalized(g: Sequence[Any], w: Sequence[Any], group: Sequence[int], rho: Any) -> list[Any]:
    """`w + rho g / ||g||`, the norm over all selected layers (Foret et al. 2021, eq. 2)."""
    del group
    scale = _radius(rho, sum((sum_of_squares(d) for d in g), jnp.zeros(())))
    return [_move(x, d, scale) for x, d in zip(w, g)]


def normalized_by_layer(
    g: Sequence[Any], w: Sequence[Any], group: Sequence[int], rho: Any
) -> list[Any]:
    """`w_i + rho g_i / ||g_i||`, each layer by its own norm."""
    squares: dict[int, jax.Array] = {}
    for i, d in zip(group, g):
        squares[i] = squares.get(i, jnp.zeros(())) + sum_of_squares(d)
    scale = {i: _radius(rho, square) for i, square in squares.items()}
    return [_move(x, d, scale[i]) for i, x, d in zip(group, w, g)]


def by_name(normalize: bool | str) -> Perturbation:
    """The perturbation that `normalize` names.

    Raises:
      ValueError: unless it is False, True or "layer".
    """
    if normalize is False:
        return plain
    if normalize is True:
        return normalized
    if normalize == "layer":
        return normalized_by_layer
    raise ValueError(
        "normalize must be False (the paper), True (by the norm over the selected layers) or "
        f'"layer" (each layer by its own norm); got normalize={normalize!r}.'
    )


def _radius(rho: Any, square: jax.Array) -> jax.Array:
    # The inner `where` keeps the unused division finite, so no NaN is born at a zero gradient.
    positive = square > 0
    norm = jnp.sqrt(jnp.where(positive, square, 1))
    return jnp.where(positive, rho / norm, jnp.where(jnp.isnan(square), jnp.nan, 0))


def _move(w: jax.Array, direction: jax.Array, scale: Any) -> jax.Array:
    # Rounded once, at the end: the sum is formed in the wider of the two types.
    return (w + scale * direction).astype(w.dtype)
