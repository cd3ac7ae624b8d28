"""Methods that descend in another direction than the gradient at the perturbed weights.

Each takes two gradients in every step, or more. `k`, `selection` and `layers` say which layers are
perturbed, as in `layerwise_sam`; by default all arrays are.
"""

from typing import Any

from lsam_jax import arguments, ascent, combination, descent
from lsam_jax.build import build
from lsam_jax.layers import LayerSpec
from lsam_jax.parallel import AxisName, PerturbationSync
from lsam_jax.radii import Radius
from lsam_jax.transform import SamTransformation


def gsam(
    rho: Radius = 0.05,
    alpha: arguments.Scalar = 0.4,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """GSAM (Zhuang et al. 2022, algorithm 1): minimises the surrogate gap besides the loss.

    With g the gradient at w and h the one at w + rho g / ||g||, the direction is
    h - alpha (g - (g.h / h.h) h): less the part of g that is orthogonal to h. The authors let rho
    fall with the learning rate, which a schedule does. https://arxiv.org/abs/2203.08065

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      alpha: how much of that part is taken away; a number or a schedule. 0 is SAM.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`; the inner products are over
        these.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.
    """
    return build(
        rho=rho,
        alpha=alpha,
        combine=combination.surrogate_gap,
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def stable_sam(
    rho: Radius = 0.05,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """Stable SAM (Tan et al. 2024): SAM's direction with the length of the clean gradient.

    With g the gradient at w and h the one at w + rho g / ||g||, the direction is
    h ||g|| / ||h||, so that the learning rate means what it means without SAM.
    https://arxiv.org/abs/2401.07250

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`; the norms are over these.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.
    """
    return build(
        rho=rho,
        combine=combination.same_norm,
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def gam(
    rho: Radius = 0.1,
    alpha: arguments.Scalar = 0.3,
    *,
    step: float = 0.01,
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """GAM (Zhang et al. 2023): penalises the largest gradient norm nearby, rho max ||grad L||.

    The norm grows along f, the product of the Hessian and g / ||g||. With w' = w + rho f / ||f||
    and h the gradient of ||grad L|| there, the direction is g + alpha rho h. Both products with a
    Hessian are differences of two gradients, so a step costs four gradients.
    https://arxiv.org/abs/2303.03108

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      alpha: the weight of the penalty; a number or a schedule. 0 is the plain gradient.
      step: how far apart the two gradients of a difference are, above 0. Weights in half precision
        need a larger one, or their rounding eats it.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError: from `update`, if only a `grad_fn` is given.
    """
    arguments.check_real("step", step, above=0.0)
    return build(
        rho=rho,
        alpha=alpha,
        ascend=ascent.gradient_norm(step),
        descend=descent.of_gradient_norm(step),
        combine=combination.plus_penalty,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def functional_sam(
    rho: Radius = 0.05,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """Functional-SAM (Singh et al. 2025): the Jacobian there, the error here.

    With F the network's outputs and l their loss, the direction is J_F(w')^T dl/dF(F(w)), where
    w' = w + rho g / ||g||: only how the outputs depend on the weights is taken at the perturbed
    weights. https://arxiv.org/abs/2502.02407

    The loss must come in its two parts: `split_loss(outputs, loss)`, as the loss function of
    `value_and_grad` or, `.at(batch)`, as `value_fn`.

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      TypeError: when first used, if the loss is not in two parts.
      ValueError: from `update`, if only a `grad_fn` is given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> tx = lsam.functional_sam(0.1)
    >>> loss_fn = lsam.split_loss(lambda w, x, y: x @ w, lambda out, x, y: jnp.mean((out - y) ** 2))
    >>> w, x, y = jnp.ones(2), jnp.ones((3, 2)), jnp.zeros(3)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w), x, y)
    """
    return build(
        rho=rho,
        descend=descent.of_outputs,
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )
