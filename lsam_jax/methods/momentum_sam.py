"""Momentum-SAM: uphill along a mean of past directions, at one gradient a step."""

from typing import Any

from lsam_jax import arguments
from lsam_jax.components import ascent
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, build


def momentum_sam(
    rho: Radius = 0.3,
    momentum: Any = 0.9,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """Momentum-SAM (Becker et al. 2024, algorithm 1): uphill is against the momentum.

    The direction is h, the gradient at w - rho m / ||m||, with m the momentum before the step;
    then m = momentum m + h. One gradient a step, and no clean pass: loss and aux are those at the
    perturbed weights. https://arxiv.org/abs/2401.12033

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      momentum: of m, in [0, 1); that of the base optimizer, usually, which keeps its own.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.momentum_sam(rho=2.5)
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for _ in range(2):  # no momentum yet; then at w - 2.5 m / 5 with m = w
    ...     loss, direction, sam_state = step(w, sam_state)
    ...     print(direction.tolist())
    [3.0, 4.0]
    [1.5, 2.0]
    """
    arguments.check_real("momentum", momentum, low=0.0, below=1.0)
    return build(
        rho=rho,
        ascend=ascent.momentum(momentum),
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )
