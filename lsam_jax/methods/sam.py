"""SAM, and generalized SAM, which mixes both gradients."""

from typing import Unpack

from lsam_jax import arguments
from lsam_jax.components import perturbation
from lsam_jax.components.combination import mixed
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def sam(rho: Radius = 0.05, **options: Unpack[LayerOptions]) -> SamTransformation:
    """SAM (Foret et al. 2021, eq. 2 and 3): descends on the gradient at w + rho g / ||g||.

    ||g|| is the norm over all parameters. https://arxiv.org/abs/2010.01412

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      **options: as for `generalized_sam`.

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
    return generalized_sam(rho, 1.0, **options)


@with_options
def generalized_sam(
    rho: Radius = 0.1,
    alpha: arguments.Scalar = 0.8,
    *,
    normalize: bool | str = True,
    **options: Unpack[LayerOptions],
) -> SamTransformation:
    """Generalized SAM, or gradient-norm penalty (Zhao et al. 2022): all layers, mixed by alpha.

    The direction is (1 - alpha) g + alpha h with h the gradient at w + rho g / ||g|| (eq. 2), or
    at w + rho g with `normalize=False` (eq. 3). https://arxiv.org/abs/2202.03599

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      alpha: the weight of h; a number or a schedule.
      normalize: as for `layerwise_sam`; False needs rho / c under loss scaling by c.
      **options: `layers` (by default every array is one; what is in none is not perturbed),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`.

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
    return method(
        rho=rho,
        alpha=alpha,
        perturbation=perturbation.by_name(normalize),
        combination=mixed(alpha),
        **options,
    )
