"""LookSAM: perturbs every few steps, and reuses what that has found."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax import arguments
from lsam_jax.arrays.vectors import by_group, by_row, one_by_one, ratio, squared_norm, vdot
from lsam_jax.components import cadence
from lsam_jax.components.combination import Combination
from lsam_jax.components.context import Arrays, StepContext, Targets, zeros_like_layers
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def look_sam(
    rho: Radius = 0.05,
    every: Any = 5,
    alpha: arguments.Scalar = 0.7,
    **options: Unpack[SelectionOptions],
) -> SamTransformation:
    """LookSAM (Liu et al. 2022, algorithm 1): SAM in the first of every few steps.

    That step descends on h, the gradient at w + rho g / ||g||, and keeps
    g_v = h - (h.g / g.g) g; the others descend on g + alpha (||g|| / ||g_v||) g_v. The inner
    products and norms are over all perturbed layers. A step that keeps costs what SAM costs, any
    other one gradient. https://arxiv.org/abs/2203.02714

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      every: steps from one perturbed step to the next; a whole number or a schedule. 1 is SAM.
      alpha: the weight of g_v; a number or a schedule.
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`. Layers that
        the last perturbed step did not choose descend on g until the next.

    Returns:
      A transformation whose state is about as large as the parameters, for g_v.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.look_sam(rho=0.1, every=3)
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for _ in range(4):
    ...     loss, direction, sam_state = step(w, sam_state)
    >>> sam_state.perturbations.tolist()  # the first and the fourth step
    [2]
    >>> layerwise = lsam.look_sam(rho=0.1, every=3, k=4, selection="high", layers="kernel")
    """
    arguments.check_count("every", every, low=1)
    return method(
        rho=rho, alpha=alpha, combination=keep_across, when=cadence.every(every), **options
    )


class LookSamMemory(NamedTuple):
    """What LookSAM keeps of its last perturbed step.

    Attributes:
      across: a tree like the parameters: the part of h orthogonal to g, 0 for a layer that was
        not selected.
      layers: bool[L], the layers that were.
    """

    across: Any
    layers: jax.Array


def _keep_across(
    g: Arrays, h: Arrays, at: Targets, now: StepContext, memory: LookSamMemory
) -> tuple[list[Any], LookSamMemory]:
    if not at.leaf:  # nothing may move
        return list(h), memory
    square = squared_norm(g)
    along = ratio(ratio(vdot(g, h), square), square)
    across = [y - along * x for x, y in zip(g, h)]
    # Where h is g but for rounding (a radius of 0, say), what is orthogonal is rounding alone, and
    # the steps to come would blow it up to the size of g.
    rounding = 4 * max((jnp.finfo(y.dtype).eps for y in h), default=0)
    is_real = squared_norm(across, at.chosen) > rounding**2 * squared_norm(h, at.chosen)
    new = [jax.tree.map(jnp.zeros_like, x) for x in now.layers.leaves(memory.across)]
    for n, c, x in zip(at.leaf, at.chosen, across):
        new[n] = jnp.where(is_real & c, x, 0).astype(new[n].dtype)
    rows = [np.ravel(i) for i in at.layer]
    chosen = [jnp.broadcast_to(c, np.shape(i)).ravel() for i, c in zip(at.layer, at.chosen)]
    first = {int(i): [n] for n, i in reversed([*enumerate(np.concatenate(rows))])}
    places = [first.get(i, []) for i in range(len(now.layers.names))]
    layers = by_group(jnp.concatenate(chosen).astype(jnp.int32), places) > 0
    return list(h), LookSamMemory(now.layers.tree(new), layers)


def _look_across(g: Arrays, now: StepContext, memory: LookSamMemory) -> list[Any]:
    across, inside = now.layers.leaves(memory.across), now.layers.inside
    of_leaf = one_by_one(memory.layers, [now.layers.of_leaf[n] for n in inside])
    kept = [by_row(c, g[n]) for n, c in zip(inside, of_leaf)]
    norm = jnp.sqrt(squared_norm([g[n] for n in inside], kept))
    scale = now.alpha * ratio(norm, squared_norm([across[n] for n in inside]))
    direction = list(g)
    for n in inside:
        direction[n] = (g[n] + scale * across[n]).astype(g[n].dtype)
    return direction


keep_across = Combination(
    _keep_across,
    _look_across,
    lambda layers, leaves: LookSamMemory(
        zeros_like_layers(layers, leaves), jnp.zeros(len(layers.names), bool)
    ),
)
"""`h`, keeping `g_v = h - (h.g / g.g) g`; without perturbation `g + alpha (||g|| / ||g_v||) g_v`
(LookSAM)."""
