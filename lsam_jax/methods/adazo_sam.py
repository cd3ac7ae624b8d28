"""AdaZO-SAM: uphill by differences of the loss, so that a step takes one gradient."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays.draws import check_seed, key_for
from lsam_jax.components.ascent import Ascent, Estimate, Loss
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.radius import Radius
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def adazo_sam(
    rho: Radius = 0.05,
    probes: int = 1,
    *,
    step: float = 1e-3,
    seed: int = 0,
    **options: Unpack[SelectionOptions],
) -> SamTransformation:
    """AdaZo-SAM (LORENZA, 2025): uphill by differences of the loss, without a first backward pass.

    The direction is the gradient at w + rho d / ||d||, where d is the mean over random normal
    probes u of ((L(w + c u) - L(w - c u)) / 2c) u. A step costs one gradient and 1 + 2 `probes`
    forward passes; loss and aux are those at w. https://arxiv.org/abs/2502.19571

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      probes: how many, at least 1.
      step: c, above 0. Too small a number drowns in the rounding of the loss, or of weights in half
        precision.
      seed: the probes are a function of it and of the step count only.
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`. The selected
        layers alone are probed; if they are near the output, so is what the forward passes compute.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it; from `update`, if only a
        `grad_fn` is given: differences need the loss.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0]), lambda w: jnp.sum(w**2) / 2
    >>> tx = lsam.adazo_sam(rho=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 3) for x in direction.tolist()]  # with one weight every probe finds uphill
    [3.5]
    """
    arguments.check_count("probes", probes, low=1)
    if arguments.static_int(probes) is None:
        raise TypeError("probes decides what is compiled, so it must be a plain number.")
    arguments.check_number("step", step, above=0.0)
    return method(rho=rho, ascent=two_point(int(probes), step, seed), **options)


def two_point(probes: int, step: float, seed: int) -> Ascent:
    """The mean over random probes u of `(L(w + c u) - L(w - c u)) / 2c u` (AdaZo-SAM).

    Args:
      probes: how many, each two forward passes.
      step: c.
      seed: u is a function of it, of the step count and of the array only.
    """
    check_seed(seed)

    def estimate(loss_of: Loss, w: Arrays, at: Targets, now: StepContext, memory: Any) -> Estimate:
        loss, aux = loss_of(w)
        key = key_for("probes", seed, now.count)
        total = [jnp.zeros_like(x) for x in w]
        for probe in range(probes):
            u = _normal(jax.random.fold_in(key, probe), w, at, now.layers)
            ahead, behind = (
                loss_of([(x + c * d).astype(x.dtype) for x, d in zip(w, u)])[0]
                for c in (step, -step)
            )
            slope = (ahead - behind) / (2 * step * probes)
            total = [(t + slope * d).astype(t.dtype) for t, d in zip(total, u)]
        return loss, aux, total, total

    return Ascent(estimate)


def _normal(key: jax.Array, w: Arrays, at: Targets, layers: Layers) -> list[Any]:
    # A layer that is not selected does not move in the probes either.
    draws = [layers.draw(n, x, jax.random.normal, key, x.dtype) for n, x in zip(at.leaf, w)]
    return [u if c is True else jnp.where(c, u, 0) for u, c in zip(draws, at.chosen)]
