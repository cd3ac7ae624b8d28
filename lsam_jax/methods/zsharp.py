"""ZSharp: uphill by the entries of the gradient that stand out in their array."""

import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays.vectors import widened
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.perturbation import Perturbation, normalized
from lsam_jax.components.radius import Radius
from lsam_jax.devices.shardings import whole
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def zsharp(
    rho: Radius = 0.05, share: float = 0.05, **options: Unpack[LayerOptions]
) -> SamTransformation:
    """ZSharp (Yun 2025): perturbs along the entries of the gradient that stand out.

    An entry's z-score is its distance from the mean of its array, in standard deviations of the
    array. With m the mask of the given share of all entries, those of largest |z|, the direction is
    the gradient at w + rho m g / ||m g||. All arrays compete, so some may have none. A mask saves
    nothing: a step costs what SAM costs. https://arxiv.org/abs/2505.02369

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      share: of the entries that are kept, in (0, 1]; 1 keeps all, which is SAM.
      **options: `layers` (by default every array is one), `axis_name` and `perturbation_sync`, as
        for `layerwise_sam`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([1.0, 1.0, 1.0, 5.0]), lambda w: jnp.sum(w**2) / 2
    >>> tx = lsam.zsharp(rho=0.5, share=0.25)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> direction.tolist()  # the last entry alone stands out
    [1.0, 1.0, 1.0, 5.5]
    """
    arguments.check_share("share", share)
    return method(
        rho=rho,
        perturbation=normalized if arguments.equals(share, 1.0) else standing_out(share),
        **options,
    )


def standing_out(share: Any) -> Perturbation:
    """`w + rho m g / ||m g||`, m keeping a share of the entries, those of largest z-score."""

    def move(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
        stacked = now.layers.stacked
        scores = [_scores(d, stacked[n]) for n, d in zip(at.leaf, g)]
        everything = jnp.concatenate([whole(z).ravel() for z in scores])
        limit = jnp.quantile(everything, 1 - arguments.resolve(share, now.count))
        # Where nothing exceeds it (all entries alike, say), all are kept: the paper, eq. 9.
        limit = jnp.where(jnp.any(everything > limit), limit, -1)
        kept = [jnp.where(z > limit, d, jnp.zeros_like(d)) for z, d in zip(scores, g)]
        return normalized.move(kept, w, at, now, ())

    return Perturbation(move)


def _scores(d: jax.Array, by_row: bool) -> jax.Array:
    """|z| of the entries of an array, or of each of its rows; 0 where they are all the same."""
    wide = widened(d)
    axes = tuple(range(by_row, d.ndim))
    apart = wide - jnp.mean(wide, axes, keepdims=True)
    count = math.prod(d.shape[by_row:])
    variance = jnp.sum(apart**2, axes, keepdims=True) / max(count - 1, 1)
    return jnp.where(
        variance > 0, jnp.abs(apart) / jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0
    )
