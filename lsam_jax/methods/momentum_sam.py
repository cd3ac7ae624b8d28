"""Momentum-SAM: uphill along a mean of past directions, at one gradient a step."""

from typing import Any, Unpack

from lsam_jax import arguments
from lsam_jax.components import ascent
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def momentum_sam(
    rho: Radius = 0.3, momentum: Any = 0.9, **options: Unpack[SelectionOptions]
) -> SamTransformation:
    """Momentum-SAM (Becker et al. 2024, algorithm 1): uphill is against the momentum.

    The direction is h, the gradient at w - rho m / ||m||, with m the momentum before the step;
    then m = momentum m + h. One gradient a step, and no clean pass: loss and aux are those at the
    perturbed weights. https://arxiv.org/abs/2401.12033

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      momentum: of m, in [0, 1); that of the base optimizer, usually, which keeps its own.
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`.

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
    arguments.check_number("momentum", momentum, low=0.0, below=1.0)
    return method(rho=rho, ascent=ascent.momentum(momentum), **options)
