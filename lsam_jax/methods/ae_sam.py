"""AE-SAM: perturbs only where the gradient is larger than usual."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.components.cadence import Cadence
from lsam_jax.components.radius import Radius
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def ae_sam(
    rho: Radius = 0.05,
    threshold: arguments.Scalar = 0.0,
    decay: Any = 0.9,
    **options: Unpack[SelectionOptions],
) -> SamTransformation:
    """AE-SAM (Jiang et al. 2023): SAM in the steps whose gradient is large, SGD in the others.

    A step is SAM's where ||g||^2 >= mu + c sigma, with mu and sigma^2 the running mean and
    variance of ||g||^2, this step's included: mu = decay mu + (1 - decay) ||g||^2, then
    sigma^2 = decay sigma^2 + (1 - decay) (||g||^2 - mu)^2; both start at 0. The first gradient is
    always computed, the second only where it is called for. Where devices perturb apart, the mean
    of their ||g||^2 decides, so that all do the same. https://arxiv.org/abs/2304.14647

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      threshold: c; a number or a schedule (the authors let it fall linearly, which
        `optax.linear_schedule(1.0, -1.0, steps)` does). -inf is SAM, inf is SGD.
      decay: of the running mean and variance, in [0, 1).
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`. ||g|| is
        over all layers.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.ae_sam(rho=0.1)
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for scale in (1, 0.1):  # a gradient as usual, then one far below
    ...     loss, direction, sam_state = step(scale * w, sam_state)
    ...     print(sam_state.selected.tolist())
    [True]
    [False]
    """
    arguments.check_real("threshold", threshold, infinite=True)
    arguments.check_number("decay", decay, low=0.0, below=1.0)
    return method(rho=rho, when=above_usual(threshold, decay), **options)


class RunningMoments(NamedTuple):
    """Running mean and variance of the squared gradient norm, f32[] each."""

    mean: jax.Array
    variance: jax.Array


def above_usual(threshold: arguments.Scalar, decay: Any) -> Cadence:
    """Perturbs where the squared norm is at least `mean + threshold * sqrt(variance)` (AE-SAM)."""

    def decide(
        square: jax.Array, count: jax.Array, memory: RunningMoments
    ) -> tuple[jax.Array, RunningMoments]:
        square = square.astype(jnp.float32)
        mean = decay * memory.mean + (1 - decay) * square
        variance = decay * memory.variance + (1 - decay) * (square - mean) ** 2
        c = jnp.asarray(arguments.resolve(threshold, count), jnp.float32)
        # An infinite threshold times a deviation of 0 is no number: it stands for itself.
        reach = jnp.where(jnp.isinf(c), c, c * jnp.sqrt(variance))
        mean, variance = (x.astype(jnp.float32) for x in (mean, variance))
        return square >= mean + reach, RunningMoments(mean, variance)

    def init(layers: Layers, leaves: Sequence[Any]) -> RunningMoments:
        del layers, leaves
        return RunningMoments(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    return Cadence(decide=decide, init=init)
