"""How much of a perturbation survives the rounding of the weights."""

from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax.arrays import promotion
from lsam_jax.arrays.vectors import squared_norm, widened
from lsam_jax.transform.method import layers_of, state_of
from lsam_jax.transform.state import SamState
from lsam_jax.transform.step_rules import awake
from lsam_jax.transform.transform import SamTransformation, check_method


@promotion.usual
def perturbation_survival(
    tx: SamTransformation, params: Any, gradient: Any, sam_state: SamState
) -> jax.Array:
    """How much of the intended perturbation survives rounding to the type of the weights.

    A small radius over many bfloat16 weights rounds away: most weights do not move at all, and SAM
    is silently off. This is 1 - ||done - intended|| / ||intended||, at least 0, where `intended`
    is the perturbation in float32 and `done` what the weights have moved by.

    Args:
      tx: what a method returns.
      params: the parameters.
      gradient: their gradient, or whatever the method climbs along.
      sam_state: the state of `tx`; the layers that its last step perturbed are looked at, or all
        layers if there are none.

    Raises:
      TypeError: if `tx` is not what a method returns.

    Returns:
      f32[], from 0 (nothing survives) to 1; 1 too if nothing was to be moved. Below 0.9, use a
      larger radius, or keep the weights in float32.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w = jnp.ones(10000, jnp.bfloat16)
    >>> for rho in (0.01, 10.0):
    ...     tx = lsam.sam(rho)
    ...     print(round(float(lsam.perturbation_survival(tx, w, w, tx.init(w))), 2))
    0.0
    0.98
    """
    check_method(tx)
    layers = layers_of(tx.method, params)
    sam_state = state_of(tx.method, layers, params, sam_state)
    selected = sam_state.selected | ~sam_state.selected.any()
    index = layers.inside
    types = [jnp.result_type(x) for x in layers.leaves(params)]
    if all(jnp.promote_types(types[n], jnp.float32) == types[n] for n in index):
        return jnp.ones((), jnp.float32)  # nothing rounds, and there is nothing to compile

    def moves(wide: bool) -> list[jax.Array]:
        def cast(tree: Any) -> list[jax.Array]:
            arrays = [jnp.asarray(x) for x in layers.leaves(tree)]
            return list(map(widened, arrays)) if wide else arrays

        w, g = cast(params), cast(gradient)
        rules = awake(tx.method, layers, sam_state, selected, w)
        start = [w[n] for n in index]
        there, _ = rules.perturb(rules.masked([g[n] for n in index], index), start, index)
        return [x.astype(jnp.float32) - y.astype(jnp.float32) for x, y in zip(there, start)]

    intended, done = moves(True), moves(False)
    lost = squared_norm([a - b for a, b in zip(done, intended)])
    size = squared_norm(intended)
    share = 1 - jnp.sqrt(lost / jnp.where(size > 0, size, 1))
    return jnp.where(size > 0, jnp.maximum(share, 0), 1).astype(jnp.float32)
