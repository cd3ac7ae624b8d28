"""SAM, and generalized SAM, which mixes both gradients."""

from lsam_jax import arguments
from lsam_jax.components import perturbation
from lsam_jax.components.combination import mixed
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, build


def sam(
    rho: Radius = 0.05,
    *,
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """SAM (Foret et al. 2021, eq. 2 and 3): descends on the gradient at w + rho g / ||g||.

    ||g|| is the norm over all parameters. https://arxiv.org/abs/2010.01412

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      layers: as for `generalized_sam`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.sam(rho=2.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> direction.tolist()  # w + 2.5 w / 5
    [4.5, 6.0]
    """
    return generalized_sam(
        rho,
        1.0,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def generalized_sam(
    rho: Radius = 0.1,
    alpha: arguments.Scalar = 0.8,
    *,
    layers: LayerSpec = "array",
    normalize: bool | str = True,
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """Generalized SAM, or gradient-norm penalty (Zhao et al. 2022): all layers, mixed by alpha.

    The direction is (1 - alpha) g + alpha h with h the gradient at w + rho g / ||g|| (eq. 2), or
    at w + rho g with `normalize=False` (eq. 3). https://arxiv.org/abs/2202.03599

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      alpha: the weight of h; a number or a schedule.
      layers: the parameters that are perturbed, and the layers whose norms are stored; by
        default every array is one.
      normalize: as for `layerwise_sam`; False needs rho / c under loss scaling by c.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.generalized_sam(rho=2.5, alpha=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> direction.tolist()  # half w, half w + 2.5 w / 5
    [3.75, 5.0]
    """
    return build(
        rho=rho,
        alpha=alpha,
        layers=layers,
        perturb=perturbation.by_name(normalize),
        combine=mixed(alpha),
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )
