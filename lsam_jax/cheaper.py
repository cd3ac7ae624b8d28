"""Methods that save the second gradient: now and then, or always.

`k`, `selection` and `layers` say which layers are perturbed, as in `layerwise_sam`; by default all
arrays are.
"""

from typing import Any

from lsam_jax import arguments
from lsam_jax.components import ascent, cadence, combination
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, build


def look_sam(
    rho: Radius = 0.05,
    every: Any = 5,
    alpha: arguments.Scalar = 0.7,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """LookSAM (Liu et al. 2022, algorithm 1): SAM in the first of every few steps.

    That step descends on h, the gradient at w + rho g / ||g||, and keeps
    g_v = h - (h.g / g.g) g; the others descend on g + alpha (||g|| / ||g_v||) g_v. The inner
    products and norms are over all perturbed layers. A step that keeps costs what SAM costs, any
    other one gradient. https://arxiv.org/abs/2203.02714

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      every: steps from one perturbed step to the next; a whole number or a schedule. 1 is SAM.
      alpha: the weight of g_v; a number or a schedule.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`. Layers that the last
        perturbed step did not choose descend on g until the next.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Returns:
      A transformation whose state is about as large as the parameters, for g_v.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.look_sam(rho=0.1, every=3)
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for _ in range(4):
    ...     loss, direction, sam_state = step(w, sam_state)
    >>> sam_state.perturbations.tolist()  # the first and the fourth step
    [2]
    >>> layerwise = lsam.look_sam(rho=0.1, every=3, k=4, selection="high", layers="kernel")
    """
    arguments.check_count("every", every, low=1)
    return build(
        rho=rho,
        alpha=alpha,
        combine=combination.keep_across,
        when=cadence.every(every),
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def ae_sam(
    rho: Radius = 0.05,
    threshold: arguments.Scalar = 0.0,
    decay: Any = 0.9,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """AE-SAM (Jiang et al. 2023): SAM in the steps whose gradient is large, SGD in the others.

    A step is SAM's where ||g||^2 >= mu + c sigma, with mu and sigma^2 the running mean and
    variance of ||g||^2, this step's included: mu = decay mu + (1 - decay) ||g||^2, then
    sigma^2 = decay sigma^2 + (1 - decay) (||g||^2 - mu)^2; both start at 0. The first gradient is
    always computed, the second only where it is called for. Where devices perturb apart, the mean
    of their ||g||^2 decides, so that all do the same. https://arxiv.org/abs/2304.14647

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      threshold: c; a number or a schedule (the authors let it fall linearly, which
        `optax.linear_schedule(1.0, -1.0, steps)` does). -inf is SAM, inf is SGD.
      decay: of the running mean and variance, in [0, 1).
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; ||g|| is over all of them.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

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
    arguments.check_real("decay", decay, low=0.0, below=1.0)
    return build(
        rho=rho,
        when=cadence.above_usual(threshold, decay),
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def momentum_sam(
    rho: Radius = 0.3,
    momentum: Any = 0.9,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """Momentum-SAM (Becker et al. 2024, algorithm 1): uphill is against the momentum.

    The direction is h, the gradient at w - rho m / ||m||, with m the momentum before the step;
    then m = momentum m + h. One gradient a step, and no clean pass: loss and aux are those at the
    perturbed weights. https://arxiv.org/abs/2401.12033

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      momentum: of m, in [0, 1); that of the base optimizer, usually, which keeps its own.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

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
    arguments.check_real("momentum", momentum, low=0.0, below=1.0)
    return build(
        rho=rho,
        ascend=ascent.momentum(momentum),
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def adazo_sam(
    rho: Radius = 0.05,
    probes: int = 1,
    *,
    step: float = 1e-3,
    seed: int = 0,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """AdaZo-SAM (LORENZA, 2025): uphill by differences of the loss, without a first backward pass.

    The direction is the gradient at w + rho d / ||d||, where d is the mean over random normal
    probes u of ((L(w + c u) - L(w - c u)) / 2c) u. A step costs one gradient and 1 + 2 `probes`
    forward passes; loss and aux are those at w. https://arxiv.org/abs/2502.19571

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      probes: how many, at least 1.
      step: c, above 0. Too small a number drowns in the rounding of the loss, or of weights in half
        precision.
      seed: the probes are a function of it and of the step count only.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed (and probed), as for `layerwise_sam`; if they are near
        the output, so is what the forward passes compute.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

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
    arguments.check_real("step", step, above=0.0)
    ascend = ascent.two_point(int(probes), step, seed)
    return build(
        rho=rho,
        ascend=ascend,
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )
