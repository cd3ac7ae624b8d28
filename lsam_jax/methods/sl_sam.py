"""SL-SAM: a bandit draws the layers of a step, and the others are not computed."""

from typing import Unpack

from lsam_jax.components import combination
from lsam_jax.components.bandit import bandit
from lsam_jax.components.budget import budget as within
from lsam_jax.components.radius import Radius
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def sl_sam(
    rho: Radius = 0.01,
    active: float = 0.2,
    *,
    rate: float = 1e-3,
    scale_free: bool = False,
    budget: float | None = None,
    seed: int = 0,
    **options: Unpack[LayerOptions],
) -> SamTransformation:
    """SL-SAM (2026): a bandit draws the layers that a step perturbs, and that alone descend.

    With S the layers drawn, g the gradient at w and h the one at w + rho g / ||g|| on S, the
    direction is h on S and 0 elsewhere; see `bandit` for the draws. What neither pass needs is
    not computed: nothing in front of the first drawn layer is differentiated. Put
    `freeze_inactive` around the base optimizer, or its momentum and weight decay go on moving
    what was not drawn. https://arxiv.org/abs/2602.09395

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      active: the mean share of layers that are drawn, in (0, 1]. 1 is SAM.
      rate: how fast the probabilities learn.
      scale_free: whether they learn from norms relative to each other; see `bandit`. Needed under
        loss scaling.
      budget: draws only layers whose extra cost stays within this share of a plain gradient; see
        the selection `budget`. The others are never trained.
      seed: of the draws.
      **options: `layers` (by default every array is one), `axis_name` and `perturbation_sync`, as
        for `layerwise_sam`. An array in no layer is never trained.

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
    return method(
        rho=rho,
        combination=combination.selected_only,
        selection=drawn if budget is None else within(budget, drawn),
        **options,
    )
