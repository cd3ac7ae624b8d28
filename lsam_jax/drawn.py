"""Methods that draw the layers of a step, so that what was not drawn need not be computed."""

from lsam_jax import arguments
from lsam_jax.components import combination, descent, perturbation
from lsam_jax.components.bandit import bandit
from lsam_jax.components.budget import budget as within
from lsam_jax.components.radius import Radius
from lsam_jax.components.selection import independent
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, build


def esam(
    rho: Radius = 0.05,
    beta: arguments.Scalar = 0.6,
    gamma: float = 0.5,
    *,
    weights: bool = False,
    seed: int = 0,
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """ESAM (Du et al. 2022): a random part of the network, and the samples that it hurts.

    Each layer is drawn with probability beta and moved by (rho / beta) g / ||g||, the norm over
    the drawn ones; the direction is the gradient there of the mean loss of the gamma share of
    samples whose loss rose most. What the draw does not need is not computed, and the backward
    pass there is over the chosen samples alone. https://arxiv.org/abs/2110.03141

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      beta: the probability, in (0, 1]; a number or a schedule.
      gamma: the share of samples, in (0, 1]. Below 1 the loss must be that of samples: pass
        `per_sample(losses)` as the loss function of `value_and_grad` or, `.at(batch)`, as
        `value_fn`. Whatever is random in the loss is drawn anew for the chosen samples.
      weights: draws each weight instead of each layer (the paper, where the authors' code draws
        arrays), with the norm over all weights; this saves nothing.
      seed: of the draws.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it; when first used, if gamma
        is below 1 and the loss is not that of samples.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.per_sample(lambda w, x: (x @ w) ** 2 / 2)
    >>> tx = lsam.esam(rho=0.5, beta=1.0, gamma=0.5)
    >>> w, x = jnp.ones(1), jnp.asarray([[1.0], [2.0]])
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w), x)
    >>> direction.tolist()  # x^2 w' of the second sample, whose loss rose most, at w' = 1.5
    [6.0]
    """
    arguments.check_share("beta", beta)
    arguments.check_share("gamma", gamma)
    if not arguments.is_concrete(gamma):
        raise TypeError("gamma decides what is compiled, so it must be a plain number.")
    everything = weights or arguments.equals(beta, 1.0)
    return build(
        rho=rho,
        selection="all" if everything else independent(beta, seed),
        perturb=perturbation.some_weights(beta, seed) if weights else perturbation.undiluted(beta),
        descend=descent.of_loss if gamma == 1 else descent.of_samples(float(gamma)),
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def sl_sam(
    rho: Radius = 0.01,
    active: float = 0.2,
    *,
    rate: float = 1e-3,
    scale_free: bool = False,
    budget: float | None = None,
    seed: int = 0,
    layers: LayerSpec = "array",
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """SL-SAM (2026): a bandit draws the layers that a step perturbs, and that alone descend.

    With S the layers drawn, g the gradient at w and h the one at w + rho g / ||g|| on S, the
    direction is h on S and 0 elsewhere; see `bandit` for the draws. What neither pass needs is
    not computed: nothing in front of the first drawn layer is differentiated. Put
    `freeze_inactive` around the base optimizer, or its momentum and weight decay go on moving
    what was not drawn. https://arxiv.org/abs/2602.09395

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      active: the mean share of layers that are drawn, in (0, 1]. 1 is SAM.
      rate: how fast the probabilities learn.
      scale_free: whether they learn from norms relative to each other; see `bandit`. Needed under
        loss scaling.
      budget: draws only layers whose extra cost stays within this share of a plain gradient; see
        the selection `budget`. The others are never trained.
      seed: of the draws.
      layers: how the parameters are cut into layers; an array in no layer is never trained.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> import lsam_jax as lsam
    >>> params = {"a": jnp.ones(1), "b": 2 * jnp.ones(1)}
    >>> loss_fn = lambda p: jnp.sum(p["a"] ** 2 + p["b"] ** 2)  # norms 2 and 4
    >>> tx = lsam.sl_sam(rho=0.01, active=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(params, tx.init(params))
    >>> [bool(d != 0) for d in direction.values()] == sam_state.selected.tolist()
    True
    >>> optimizer = optax.chain(tx, lsam.freeze_inactive(optax.adamw(1e-4)))
    """
    drawn = bandit(active, rate, scale_free=scale_free, seed=seed)
    return build(
        rho=rho,
        combine=combination.selected_only,
        selection=drawn if budget is None else within(budget, drawn),
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )
