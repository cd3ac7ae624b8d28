"""WSAM: the sharpness as a term of its own, of any weight."""

from typing import Unpack

from lsam_jax import arguments
from lsam_jax.components import combination
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def wsam(
    rho: Radius = 0.05, gamma: arguments.Scalar = 0.9, **options: Unpack[LayerOptions]
) -> SamTransformation:
    """WSAM (Yue et al. 2023): the loss, and gamma / (1 - gamma) times the sharpness.

    With h the gradient at w + rho g / ||g||, the direction is g + gamma / (1 - gamma) (h - g). So
    0 is the base optimizer, 0.5 is SAM, and more goes beyond the perturbed gradient. That is the
    coupled form, which the base optimizer sees as a whole (of plain SGD it is the only one); in the
    authors' decoupled one, momentum and scales are made from g alone, and the second term is added
    to the step. https://arxiv.org/abs/2305.15817

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      gamma: the weight of the sharpness, in [0, 1); a number or a schedule.
      **options: `layers` (by default every array is one), `axis_name` and `perturbation_sync`, as
        for `layerwise_sam`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.wsam(rho=0.5, gamma=0.75)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 3) for x in direction.tolist()]  # w + 3 (0.5 w / 5)
    [3.9, 5.2]
    """
    arguments.check_real("gamma", gamma, low=0.0, below=1.0)

    def weight(gamma: arguments.Scalar) -> arguments.Scalar:
        if callable(gamma):
            return lambda count: weight(gamma(count))
        return gamma / (1 - gamma)

    return method(rho=rho, alpha=weight(gamma), combination=combination.mix, **options)
