"""How far the weights move uphill: from an ascent gradient to perturbed weights.

`move` of a perturbation is a function `(g, w, at, now, memory) -> w'` of lists of arrays, one for
each array that may move: the ascent gradients `g` (zero where a layer is not selected), the
weights, and where they belong. A zero gradient moves nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays.vectors import by_row, ratio, squared_norm, sum_of_squares
from lsam_jax.components.context import (
    Arrays,
    StepContext,
    Targets,
    remember_nothing,
    zeros_like_layers,
)
from lsam_jax.layers.leaves import Layers


class Perturbation(NamedTuple):
    """A pure function that moves weights, and its memory.

    Attributes:
      move: `(g, w, at, now, memory) -> w'`.
      init: makes its memory from the layers and the leaves of the parameters.
      update: the memory after a step, from `(memory, g, at, now)`.
      refresh: a new memory, from the layers and scores given from outside, one for each leaf.
    """

    move: Callable[[Arrays, Arrays, Targets, StepContext, Any], list[Any]]
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    update: Callable[[Any, Arrays, Targets, StepContext], Any] = lambda memory, g, at, now: memory
    refresh: Callable[[Layers, Sequence[Any]], Any] | None = None


def along(d: Arrays, square: jax.Array, w: Arrays, at: Targets, now: StepContext) -> list[Any]:
    """`w + rho d / sqrt(square)`, and w where the square is 0."""
    return plain.move(d, w, at, now._replace(rho=ratio(now.rho, square)), ())


def _plain(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
    return [_move(x, d, now.radius(i)) for i, x, d in zip(at.layer, w, g)]


def _normalized(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
    return along(g, squared_norm(g), w, at, now)


def _normalized_by_layer(
    g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any
) -> list[Any]:
    squares: dict[Any, jax.Array] = {}
    places = [now.layers.of_leaf[n] for n in at.leaf]
    for i, d in zip(places, g):  # one by one: what one array alone needs, XLA joins to it
        squares[i] = squares.get(i, jnp.zeros(())) + sum_of_squares(d, np.ndim(i))
    scale = {i: _ratio_of_one(now.radius(np.asarray(i)), square) for i, square in squares.items()}
    return [_move(x, d, by_row(scale[i], x)) for i, x, d in zip(places, w, g)]


plain = Perturbation(_plain)
"""`w + rho g`: the paper's (eq. 6)."""

normalized = Perturbation(_normalized)
"""`w + rho g / ||g||`, the norm over all selected layers (Foret et al. 2021, eq. 2)."""

normalized_by_layer = Perturbation(_normalized_by_layer)
"""`w_i + rho g_i / ||g_i||`, each layer by its own norm."""


def along_running_mean(
    decay: Callable[[StepContext], Any],
    direction: Callable[[Arrays, Arrays, StepContext], Arrays] = lambda g, m, now: m,
) -> Perturbation:
    """`w + rho d / ||d||`, d made of the gradient g and its running mean m.

    Args:
      decay: of the mean, `m = decay m + (1 - decay) g`, by the step; it starts at 0.
      direction: `(g, m, now) -> d`, by default m.
    """

    def update(memory: Any, g: Arrays, at: Targets, now: StepContext) -> Any:
        mean, keep = now.layers.leaves(memory), decay(now)
        for n, x in zip(at.leaf, g):
            mean[n] = (keep * mean[n] + (1 - keep) * x).astype(mean[n].dtype)
        return now.layers.tree(mean)

    def move(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
        mean = now.layers.leaves(update(memory, g, at, now))
        return _normalized(direction(g, [mean[n] for n in at.leaf], now), w, at, now, ())

    return Perturbation(move, zeros_like_layers, update)


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


def _ratio_of_one(numerator: Any, square: jax.Array) -> jax.Array:
    """`vectors.ratio`, for what few arrays need; not 0 but finite where `square` is 0."""
    # XLA joins the root to the sum, where a `where` behind it would go to each consumer. Its
    # derivative is finite, too.
    return numerator * jax.lax.rsqrt(jnp.where(square < jnp.finfo(square.dtype).tiny, 1, square))


def _move(w: jax.Array, direction: jax.Array, scale: Any) -> jax.Array:
    # Rounded once, at the end: the sum is formed in the wider of the two types.
    return (w + scale * direction).astype(w.dtype)
