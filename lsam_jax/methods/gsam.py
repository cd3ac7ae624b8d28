"""GSAM: descends the surrogate gap beside the perturbed loss."""

from typing import Any, Unpack

import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays.vectors import ratio, squared_norm, total, vdot
from lsam_jax.components.combination import Combination, Mixed
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def gsam(
    rho: Radius = 0.05, alpha: arguments.Scalar = 0.4, **options: Unpack[SelectionOptions]
) -> SamTransformation:
    """GSAM (Zhuang et al. 2022, algorithm 1): minimises the surrogate gap besides the loss.

    With g the gradient at w and h the one at w + rho g / ||g||, the direction is
    h - alpha (g - (g.h / h.h) h): less the part of g that is orthogonal to h. The authors let rho
    fall with the learning rate, which a schedule does. https://arxiv.org/abs/2203.08065

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      alpha: how much of that part is taken away; a number or a schedule. 0 is SAM.
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`. The inner
        products are over the selected layers.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, a = jnp.asarray([3.0, 2.0]), jnp.asarray([1.0, 2.0])
    >>> loss_fn = lambda w: jnp.sum(a * w**2) / 2  # its gradient is a w
    >>> tx = lsam.gsam(rho=2.5, alpha=1.0)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 2) for x in direction.tolist()]  # h = [4.5, 8], less the part of g = [3, 4]
    [3.93, 8.32]
    """
    return method(rho=rho, alpha=alpha, combination=surrogate_gap, **options)


def _surrogate_gap(g: Arrays, h: Arrays, at: Targets, now: StepContext, memory: Any) -> Mixed:
    square = squared_norm(h, at.chosen)
    along = ratio(ratio(vdot(g, h), square), square)  # the part of g along h, in units of h
    a = now.alpha
    # `y - a (x - along y)` in fewer operations for each array; `total` keeps XLA from repeating the
    # sum of numbers in all of them.
    of_h = total(jnp.stack([jnp.ones_like(along), a * along]))
    return [(of_h * y - a * x).astype(y.dtype) for x, y in zip(g, h)], memory


surrogate_gap = Combination(_surrogate_gap)
"""`h - alpha (g - (g.h / h.h) h)`: against the part of g that is orthogonal to h (GSAM)."""
