"""VaSSO: uphill by a running mean of the gradients."""

from typing import Any, Unpack

from lsam_jax import arguments
from lsam_jax.components.perturbation import along_running_mean
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def vasso(
    rho: Radius = 0.1, theta: Any = 0.4, **options: Unpack[LayerOptions]
) -> SamTransformation:
    """VaSSO (Li and Giannakis 2023): a steadier ascent, along a running mean of the gradients.

    With d = (1 - theta) d + theta g, which starts at 0, the direction is the gradient at
    w + rho d / ||d||: the perturbation depends less on the noise of one batch.
    https://arxiv.org/abs/2509.02433. `stale`, with a decay, is close to it at one gradient a step.

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      theta: the weight of the newest gradient, in (0, 1]. 1 is SAM.
      **options: `layers` (by default every array is one), `axis_name` and `perturbation_sync`, as
        for `layerwise_sam`.

    Returns:
      A transformation whose state is about as large as the parameters, for d.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w, c: jnp.sum(c * w**2) / 2
    >>> tx = lsam.vasso(rho=1.0, theta=0.5)
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for c in ([0.0, 1.0], [1.0, 0.0]):  # g = [0, 4], [3, 0]; d = [0, 2], [1.5, 1]
    ...     loss, direction, sam_state = step(w, sam_state, jnp.asarray(c))
    ...     print([round(x, 2) for x in direction.tolist()])
    [0.0, 5.0]
    [3.83, 0.0]
    """
    arguments.check_share("theta", theta)
    along = along_running_mean(lambda now: 1 - arguments.resolve(theta, now.count))
    return method(rho=rho, perturbation=along, **options)
