"""Methods that descend in another direction than the gradient at the perturbed weights.

Each takes two gradients in every step, or more. `k`, `selection` and `layers` say which layers are
perturbed, as in `layerwise_sam`; by default all arrays are.
"""

from typing import Any

from lsam_jax import arguments
from lsam_jax.components import ascent, combination, descent
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, build


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
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      alpha: how much of that part is taken away; a number or a schedule. 0 is SAM.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`; the inner products are over
        these.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, a = jnp.asarray([3.0, 2.0]), jnp.asarray([1.0, 2.0])
    >>> loss_fn = lambda w: jnp.sum(a * w**2) / 2  # its gradient is a w
    >>> tx = lsam.gsam(rho=2.5, alpha=1.0)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 2) for x in direction.tolist()]  # h = [4.5, 8], less the part of g = [3, 4]
    [3.93, 8.32]
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
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`; the norms are over these.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, a = jnp.asarray([3.0, 2.0]), jnp.asarray([1.0, 2.0])
    >>> loss_fn = lambda w: jnp.sum(a * w**2) / 2  # its gradient is a w
    >>> tx = lsam.stable_sam(rho=2.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> round(float(jnp.linalg.norm(direction)), 3)  # as long as g = [3, 4], along h = [4.5, 8]
    5.0
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
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      alpha: the weight of the penalty; a number or a schedule. 0 is the plain gradient.
      step: how far apart the two gradients of a difference are, above 0. Weights in half precision
        need a larger one, or their rounding eats it.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

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
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      TypeError: when first used, if the loss is not in two parts.
      ValueError: if `rho` is out of its range; from `update`, if only a `grad_fn` is given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.split_loss(lambda w: w**2, lambda outputs: jnp.sum(outputs**2) / 2)
    >>> tx, w = lsam.functional_sam(rho=0.5), jnp.ones(1)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> direction.tolist()  # 2 w' w^2 with w' = 1.5, where SAM has 2 w'^3
    [3.0]
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
