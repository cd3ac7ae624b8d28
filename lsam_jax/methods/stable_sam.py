"""StableSAM: the perturbed gradient, with the length of the clean one."""

from typing import Any, Unpack

import jax.numpy as jnp

from lsam_jax.arrays.vectors import ratio, squared_norm
from lsam_jax.components.combination import Combination, Mixed
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def stable_sam(rho: Radius = 0.05, **options: Unpack[SelectionOptions]) -> SamTransformation:
    """Stable SAM (Tan et al. 2024): SAM's direction with the length of the clean gradient.

    With g the gradient at w and h the one at w + rho g / ||g||, the direction is
    h ||g|| / ||h||, so that the learning rate means what it means without SAM.
    https://arxiv.org/abs/2401.07250

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`. The norms
        are over the selected layers.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, a = jnp.asarray([3.0, 2.0]), jnp.asarray([1.0, 2.0])
    >>> loss_fn = lambda w: jnp.sum(a * w**2) / 2  # its gradient is a w
    >>> tx = lsam.stable_sam(rho=2.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> round(float(jnp.linalg.norm(direction)), 3)  # as long as g = [3, 4], along h = [4.5, 8]
    5.0
    """
    return method(rho=rho, combination=same_norm, **options)


def _same_norm(g: Arrays, h: Arrays, at: Targets, now: StepContext, memory: Any) -> Mixed:
    scale = ratio(jnp.sqrt(squared_norm(g)), squared_norm(h, at.chosen))
    return [(scale * y).astype(y.dtype) for y in h], memory


same_norm = Combination(_same_norm)
"""`h ||g|| / ||h||` (Stable SAM)."""
