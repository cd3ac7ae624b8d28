"""Fisher SAM: a ball in the metric of the Fisher information, instead of the Euclidean one."""

from typing import Any, Unpack

from lsam_jax import arguments
from lsam_jax.arrays.vectors import vdot, widened
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.perturbation import Perturbation, along
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def fisher_sam(
    rho: Radius = 0.1, eta: arguments.Scalar = 1.0, **options: Unpack[SelectionOptions]
) -> SamTransformation:
    """Fisher SAM (Kim et al. 2022): the gradient at w + rho F^-1 g / sqrt(g . F^-1 g).

    F = 1 + eta g^2, entry by entry, stands for the Fisher information: weights whose gradient is
    large move less. https://arxiv.org/abs/2206.04920

    Args:
      rho: the radius in this metric, the paper's gamma; a number, a schedule, `per_layer`,
        `bounded` or `rise` radii.
      eta: at least 0; a number or a schedule. 0 is SAM. Under loss scaling by c, pass eta / c^2.
      **options: `k`, `selection`, `layers`, `axis_name`, `perturbation_sync`, as for `asam`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w, tx = jnp.ones(2), lsam.fisher_sam(rho=1.0)
    >>> lsam.value_and_grad(lambda w: w @ w / 2, tx)(w, tx.init(w))[1].tolist()  # F = 2
    [1.5, 1.5]
    """
    arguments.check_real("eta", eta, low=0.0)

    def move(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
        uphill = [d / (1 + arguments.resolve(eta, now.count) * d * d) for d in map(widened, g)]
        return along(uphill, vdot(g, uphill), w, at, now)

    return method(rho=rho, perturbation=Perturbation(move), **options)
