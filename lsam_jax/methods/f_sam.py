"""F-SAM: uphill by what is special about a batch."""

from typing import Any, Unpack

from lsam_jax import arguments
from lsam_jax.components.context import Arrays, StepContext
from lsam_jax.components.perturbation import along_running_mean
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def f_sam(
    rho: Radius = 0.1,
    sigma: arguments.Scalar = 1.0,
    decay: Any = 0.9,
    **options: Unpack[LayerOptions],
) -> SamTransformation:
    """F-SAM, friendly SAM (Li et al. 2024): less of the gradient that all batches share.

    With m = decay m + (1 - decay) g and d = g - sigma m, the direction is the gradient at
    w + rho d / ||d||: m stands for the gradient of the whole data set, and d for the noise of the
    batch. The authors' code subtracts the m of the step before, and climbs by g in the first step.
    https://arxiv.org/abs/2403.12350

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      sigma: how much of m is taken away; a number or a schedule. 0 is SAM.
      decay: of m, in [0, 1).
      **options: `layers` (by default every array is one), `axis_name` and `perturbation_sync`, as
        for `layerwise_sam`.

    Returns:
      A transformation whose state is about as large as the parameters, for m.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w, c: jnp.sum(c * w**2) / 2
    >>> tx = lsam.f_sam(rho=1.0, decay=0.5)
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for c in ([1.0, 1.0], [1.0, 0.0]):  # g = [3, 4], [3, 0]; d = g / 2, then [0.75, -1]
    ...     loss, direction, sam_state = step(w, sam_state, jnp.asarray(c))
    ...     print([round(x, 2) for x in direction.tolist()])
    [3.6, 4.8]
    [3.6, 0.0]
    """
    arguments.check_real("sigma", sigma)
    arguments.check_number("decay", decay, low=0.0, below=1.0)

    def less_the_mean(g: Arrays, m: Arrays, now: StepContext) -> Arrays:
        share = arguments.resolve(sigma, now.count)
        return [(x - share * y).astype(x.dtype) for x, y in zip(g, m)]

    along = along_running_mean(lambda now: decay, less_the_mean)
    return method(rho=rho, perturbation=along, **options)
