"""A selector that learns which layers have the largest gradients (SL-SAM)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arguments import check_number, check_truth
from lsam_jax.arrays.draws import check_seed, key_for
from lsam_jax.components.selector import Selector, all_layers
from lsam_jax.layers.leaves import Layers


class BanditState(NamedTuple):
    """The memory of `bandit`.

    Attributes:
      probability: f32[L], of each layer to be drawn in the next step; they sum to `active` times
        the number of layers that can be drawn.
    """

    probability: jax.Array


def bandit(
    active: float = 0.2, rate: float = 1e-3, *, scale_free: bool = False, seed: int = 0
) -> Selector:
    """Draws layers independently, with probabilities that it learns (SL-SAM, arXiv:2602.09395).

    With p the probabilities and a the norms of the ascent gradient, a step that has drawn the
    layers S sets, for i in S, l_i = max_j (a_j / p_j)^2 - (a_i / p_i)^2 and
    p_i = p_i exp(-rate l_i / p_i); then all p are projected to sum p = active L, p <= 1: the
    largest are set to 1 while they exceed their share, the rest are scaled. At first every p is
    `active`. An empty draw is drawn again.

    Args:
      active: the mean share of layers that are drawn, in (0, 1].
      rate: how fast p learns, at least 0.
      scale_free: False: a are the norms (the authors' code), so p depends on the scale of the
        loss: a loss ten times as large learns a hundred times as fast. True: a are divided by
        their root mean square over S.
      seed: the draws are a function of it, of the step count and of p only.

    Returns:
      A `Selector` whose memory holds p.

    Raises:
      ValueError, TypeError: if `active`, `rate` or `scale_free` is out of its range.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"a": jnp.ones(1), "b": 2 * jnp.ones(1)}
    >>> loss_fn = lambda p: jnp.sum(p["a"] ** 2 + p["b"] ** 2)  # norms 2 and 4
    >>> tx = lsam.layerwise_sam(None, 0.1, selection=lsam.bandit(active=0.5), layers="array")
    >>> loss, grads, sam_state = lsam.value_and_grad(loss_fn, tx)(params, tx.init(params))
    >>> round(float(sam_state.memory.selection.probability.sum()), 3)  # half of two layers
    1.0
    """
    check_number("active", active, above=0.0, most=1.0)
    check_number("rate", rate, low=0.0)
    check_truth("scale_free", scale_free)
    check_seed(seed)

    def init(layers: Layers, leaves: Sequence[Any]) -> BanditState:
        return BanditState(jnp.full(len(layers.names), active, jnp.float32))

    def draw(count: jax.Array, memory: BanditState, candidates: np.ndarray) -> jax.Array:
        def again(drawing: tuple[Any, Any]) -> tuple[Any, Any]:
            key, now = jax.random.split(drawing[0])
            drawn = jax.random.uniform(now, candidates.shape) < memory.probability
            return key, drawn & candidates

        first = (key_for("bandit", seed, count), jnp.zeros_like(memory.probability, bool))
        return jax.lax.while_loop(lambda drawing: ~drawing[1].any(), again, first)[1]

    def observe(
        memory: BanditState, selected: Any, norms: jax.Array, candidates: np.ndarray
    ) -> BanditState:
        p = memory.probability
        a = jnp.where(selected, norms, 0)
        if scale_free:
            square = jnp.sum(a**2) / jnp.sum(selected)
            a = a / jnp.sqrt(jnp.where(square > 0, square, 1))
        reward = jnp.where(selected, (a / p) ** 2, 0)
        loss = jnp.max(reward) - reward
        moved = jnp.where(selected, p * jnp.exp(-rate * loss / p), p)
        projected = _project(jnp.where(candidates, moved, 0), active * candidates.sum())
        return BanditState(jnp.where(candidates, projected, p).astype(jnp.float32))

    return Selector(all_layers, draw=draw, init=init, observe=observe)


def _project(p: jax.Array, total: Any) -> jax.Array:
    """The vector nearest in proportion to `p` of this sum, with no entry above 1."""
    tiny = jnp.finfo(p.dtype).tiny
    ranked = jnp.sort(p)[::-1]
    rest = jnp.maximum(jnp.cumsum(ranked[::-1])[::-1], tiny)  # rest[m]: all but the m largest
    scale = (total - jnp.arange(len(p))) / rest
    # The first m for which the largest of the rest, scaled, stays within 1.
    fits = scale * ranked <= 1
    return jnp.minimum(p * scale[jnp.argmax(fits)], 1)
