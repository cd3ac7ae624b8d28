"""GAM: descends the norm of the gradient beside the loss."""

from collections.abc import Callable
from typing import Any, Unpack

import jax

from lsam_jax import arguments
from lsam_jax.arrays.vectors import step_along
from lsam_jax.components.ascent import Ascent, Estimate, Loss
from lsam_jax.components.combination import Combination, Mixed
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.descent import Descent
from lsam_jax.components.radius import Radius
from lsam_jax.engine import auxiliary
from lsam_jax.engine.step_rules import Leaves, PerturbedPass, ValueAuxGrad
from lsam_jax.transform.options import DeviceOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def gam(
    rho: Radius = 0.1,
    alpha: arguments.Scalar = 0.3,
    *,
    step: float = 0.01,
    **options: Unpack[DeviceOptions],
) -> SamTransformation:
    """GAM (Zhang et al. 2023): penalises the largest gradient norm nearby, rho max ||grad L||.

    The norm grows along f, the product of the Hessian and g / ||g||. With w' = w + rho f / ||f||
    and h the gradient of ||grad L|| there, the direction is g + alpha rho h. Both products with a
    Hessian are differences of two gradients, so a step costs four gradients.
    https://arxiv.org/abs/2303.03108

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      alpha: the weight of the penalty; a number or a schedule. 0 is the plain gradient.
      step: how far apart the two gradients of a difference are, above 0. Weights in half precision
        need a larger one, or their rounding eats it.
      **options: `axis_name` and `perturbation_sync`, as for `layerwise_sam`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it; from `update`, if only a
        `grad_fn` is given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.gam(rho=1.0, alpha=1.0)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 2) for x in direction.tolist()]  # w + w / ||w||: here the norm is ||w||
    [3.6, 4.8]
    """
    arguments.check_number("step", step, above=0.0)
    return method(
        rho=rho,
        alpha=alpha,
        ascent=gradient_norm(step),
        descent=of_gradient_norm(step),
        combination=plus_penalty,
        **options,
    )


def gradient_norm(step: float) -> Ascent:
    """The gradient of the gradient's norm, by a difference of gradients (GAM).

    With u = g / ||g||, that is the product of the Hessian and u: `(grad L(w + c u) - g) / c`, c
    being `step`.
    """

    def estimate(loss_of: Loss, w: Arrays, at: Targets, now: StepContext, memory: Any) -> Estimate:
        del at, memory
        both = jax.value_and_grad(loss_of, has_aux=True)
        (loss, aux), g = both(list(w))
        _, ahead = both(step_along(w, g, step))
        return loss, aux, [((a - d) / step).astype(d.dtype) for a, d in zip(ahead, g)], g

    return Ascent(estimate)


def _plus_penalty(g: Arrays, h: Arrays, at: Targets, now: StepContext, memory: Any) -> Mixed:
    weight = [now.alpha * now.radius(i) for i in at.layer]
    return [(x + a * y).astype(y.dtype) for a, x, y in zip(weight, g, h)], memory


plus_penalty = Combination(_plus_penalty)
"""`g + alpha rho h`, h being the gradient of a penalty of weight alpha rho (GAM)."""


def of_gradient_norm(step: float) -> Descent:
    """The norm of the gradient, by a difference of gradients (GAM).

    With h the gradient at w' and u = h / ||h||: `(grad L(w' + c u) - h) / c`, c being `step`.
    """

    def second(
        loss_fn: Any,
        tree_of: Callable[[Leaves], Any],
        need: Callable[[Leaves], Any],
        clean: Leaves,
        perturbed: PerturbedPass,
    ) -> ValueAuxGrad:
        def loss_of(leaves: Leaves) -> Any:
            return auxiliary.loss_of(loss_fn(tree_of(leaves)))

        loss, aux, h = perturbed.gradient(lambda loss, aux: loss)
        ahead = jax.grad(loss_of)(step_along(perturbed.weights, h, step))
        return loss, aux, [((a - d) / step).astype(d.dtype) for a, d in zip(ahead, h)]

    return Descent(second=second, is_gradient=False)
