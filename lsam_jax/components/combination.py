"""What is descended: a direction from the clean gradient and the one at the perturbed weights.

`mix` of a combination is a function `(g, h, at, now, memory) -> (direction, memory)` of lists of
arrays, one for each array that may move, `g` (zero where a layer is not selected) and `h` being
its gradients at the clean and at the perturbed weights. What it gives for an array that is not
selected is not used: that one descends on `h`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax.arrays.vectors import inner, ratio, square_of, total
from lsam_jax.components.context import Moving, Now, remember_nothing, zeros_like_layers
from lsam_jax.layers.partition import Layers

Arrays = Sequence[Any]


class Combination(NamedTuple):
    """A pure function that makes the direction of descent, and its memory.

    Attributes:
      mix: `(g, h, at, now, memory) -> (direction, memory)`.
      alone: `(g, now, memory) -> direction`, for all arrays, in a step without perturbation.
      init: makes its memory from the layers and the leaves of the parameters.
      everywhere: whether arrays of layers that are not selected descend at all.
      uses_clean: whether `mix` needs the clean gradient, g; if not, any ascent will do.
    """

    mix: Callable[[Arrays, Arrays, Moving, Now, Any], tuple[list[Any], Any]]
    alone: Callable[[Arrays, Now, Any], Arrays] = lambda g, now, memory: g
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    everywhere: bool = True
    uses_clean: bool = True


def _mix(g: Arrays, h: Arrays, at: Moving, now: Now, memory: Any) -> tuple[list[Any], Any]:
    a = now.alpha
    return [((1 - a) * x + a * y).astype(y.dtype) for x, y in zip(g, h)], memory


def _perturbed_only(
    g: Arrays, h: Arrays, at: Moving, now: Now, memory: Any
) -> tuple[list[Any], Any]:
    return list(h), memory


def _surrogate_gap(
    g: Arrays, h: Arrays, at: Moving, now: Now, memory: Any
) -> tuple[list[Any], Any]:
    square = square_of(h, at.chosen)
    along = ratio(ratio(inner(g, h), square), square)  # the part of g along h, in units of h
    a = now.alpha
    # `y - a (x - along y)` in fewer operations for each array; `total` keeps XLA from repeating the
    # sum of numbers in all of them.
    of_h = total(jnp.stack([jnp.ones_like(along), a * along]))
    return [(of_h * y - a * x).astype(y.dtype) for x, y in zip(g, h)], memory


def _same_norm(g: Arrays, h: Arrays, at: Moving, now: Now, memory: Any) -> tuple[list[Any], Any]:
    scale = ratio(jnp.sqrt(square_of(g)), square_of(h, at.chosen))
    return [(scale * y).astype(y.dtype) for y in h], memory


mix = Combination(_mix)
"""`(1 - alpha) g + alpha h` (the paper, eq. 6; Zhao et al. 2022, eq. 2)."""

perturbed_only = Combination(_perturbed_only, uses_clean=False)
"""`h`: SAM's choice, alpha = 1, without a multiplication that rounds or turns inf to NaN."""

surrogate_gap = Combination(_surrogate_gap)
"""`h - alpha (g - (g.h / h.h) h)`: against the part of g that is orthogonal to h (GSAM)."""

same_norm = Combination(_same_norm)
"""`h ||g|| / ||h||` (Stable SAM)."""

selected_only = Combination(_perturbed_only, everywhere=False, uses_clean=False)
"""`h` for the selected layers, and 0 for all others (SL-SAM)."""


def _plus_penalty(g: Arrays, h: Arrays, at: Moving, now: Now, memory: Any) -> tuple[list[Any], Any]:
    weight = [now.alpha * now.radius(i) for i in at.layer]
    return [(x + a * y).astype(y.dtype) for a, x, y in zip(weight, g, h)], memory


plus_penalty = Combination(_plus_penalty)
"""`g + alpha rho h`, h being the gradient of a penalty of weight alpha rho (GAM)."""


class Kept(NamedTuple):
    """What LookSAM keeps of its last perturbed step.

    Attributes:
      across: a tree like the parameters: the part of h orthogonal to g, 0 for a layer that was
        not selected.
      layers: bool[L], the layers that were.
    """

    across: Any
    layers: jax.Array


def _keep_across(
    g: Arrays, h: Arrays, at: Moving, now: Now, memory: Kept
) -> tuple[list[Any], Kept]:
    square = square_of(g)
    along = ratio(ratio(inner(g, h), square), square)
    across = [y - along * x for x, y in zip(g, h)]
    # Where h is g but for rounding (a radius of 0, say), what is orthogonal is rounding alone, and
    # the steps to come would blow it up to the size of g.
    rounding = 4 * max((jnp.finfo(y.dtype).eps for y in h), default=0)
    is_real = square_of(across, at.chosen) > rounding**2 * square_of(h, at.chosen)
    new = [jax.tree.map(jnp.zeros_like, x) for x in now.layers.leaves(memory.across)]
    for n, c, x in zip(at.leaf, at.chosen, across):
        new[n] = jnp.where(is_real & c, x, 0).astype(new[n].dtype)
    chosen = dict(zip(at.layer, at.chosen))
    layers = jnp.stack([jnp.asarray(chosen.get(i, False)) for i in range(len(now.layers.names))])
    return list(h), Kept(now.layers.tree(new), layers)


def _look_across(g: Arrays, now: Now, memory: Kept) -> list[Any]:
    across, of_leaf = now.layers.leaves(memory.across), now.layers.of_leaf
    inside = [n for n, i in enumerate(of_leaf) if i >= 0]
    kept = [memory.layers[of_leaf[n]] for n in inside]
    norm = jnp.sqrt(square_of([g[n] for n in inside], kept))
    scale = now.alpha * ratio(norm, square_of([across[n] for n in inside]))
    direction = list(g)
    for n in inside:
        direction[n] = (g[n] + scale * across[n]).astype(g[n].dtype)
    return direction


keep_across = Combination(
    _keep_across,
    _look_across,
    lambda layers, leaves: Kept(
        zeros_like_layers(layers, leaves), jnp.zeros(len(layers.names), bool)
    ),
)
"""`h`, keeping `g_v = h - (h.g / g.g) g`; without perturbation `g + alpha (||g|| / ||g_v||) g_v`
(LookSAM)."""
