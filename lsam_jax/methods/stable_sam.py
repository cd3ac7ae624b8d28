"""StableSAM: the perturbed gradient, with the length of the clean one."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from lsam_jax.arrays.vectors import ratio, squared_norm
from lsam_jax.components.combination import Combination
from lsam_jax.components.context import StepContext, Targets
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, build

Arrays = Sequence[Any]


def stable_sam(
    rho: Radius = 0.05,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """Stable SAM (Tan et al. 2024): SAM's direction with the length of the clean gradient.

    With g the gradient at w and h the one at w + rho g / ||g||, the direction is
    h ||g|| / ||h||, so that the learning rate means what it means without SAM.
    https://arxiv.org/abs/2401.07250

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`; the norms are over these.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

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
    return build(
        rho=rho,
        combine=same_norm,
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def _same_norm(
    g: Arrays, h: Arrays, at: Targets, now: StepContext, memory: Any
) -> tuple[list[Any], Any]:
    scale = ratio(jnp.sqrt(squared_norm(g)), squared_norm(h, at.chosen))
    return [(scale * y).astype(y.dtype) for y in h], memory


same_norm = Combination(_same_norm)
"""`h ||g|| / ||h||` (Stable SAM)."""
