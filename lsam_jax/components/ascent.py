"""Uphill by what: the clean gradient, that of the step before, or differences of the loss.

The clean gradient is the engine's own, since it skips what nobody asks for. Any other ascent is a
function that stands in for it, and makes the first backward pass unnecessary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays.vectors import ratio, squared_norm, vdot
from lsam_jax.components.context import (
    Arrays,
    StepContext,
    Targets,
    remember_nothing,
    zeros_like_layers,
)
from lsam_jax.layers.leaves import Layers

USUAL = 0.6
"""The cosine above which a stale ascent rests; chosen on held-out images, see docs/radius.md."""

Loss = Callable[[Arrays], tuple[Any, list[Any]]]
Estimate = tuple[Any, Any, Arrays, Arrays]


class Ascent(NamedTuple):
    """Where the ascent direction comes from; without `estimate`, from the clean gradient.

    Attributes:
      estimate: `(loss_of, w, at, now, memory) -> (loss, aux, uphill, g)` for the arrays that may
        move; `loss_of(w)` gives loss and aux. Loss and aux may be None: those of the perturbed
        pass are then the step's. g is what the combination gets, the clean gradient if it is
        known.
      uses_loss: whether `estimate` calls `loss_of`; if not, a gradient function is enough, and a
        step has no clean pass.
      init: makes its memory from the layers and the leaves of the parameters.
      update: the memory after a step, from `(memory, direction, now)`, direction for all arrays.
      rests: from its memory, whether the step moves nothing.
      fresh: the name of a layer: from its place in the network on, arrays move along their gradient
        at weights that `estimate`, which calls no loss, has moved in front; see `stale`.
    """

    estimate: Callable[[Loss, Arrays, Targets, StepContext, Any], Estimate] | None = None
    uses_loss: bool = True
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    update: Callable[[Any, Arrays, StepContext], Any] = lambda memory, direction, now: memory
    rests: Callable[[Any], Any] | None = None
    fresh: str | None = None


gradient = Ascent()
"""Uphill by the clean gradient of this step."""


class Resting(NamedTuple):
    """What `stale` remembers where it rests.

    Attributes:
      direction: like the parameters, what the next step moves along.
      rests: bool[], whether it rests instead.
    """

    direction: Any
    rests: Any


def stale(decay: Any = 0.0, fresh: str | None = None, rest: float | None = None) -> Ascent:
    """Uphill by the direction of the step before: no first pass, one gradient a step.

    The weights move along d by the rule of the method (for SAM: eps = rho d / ||d||), and d is the
    gradient that the step before descended on; with `decay`, the running mean
    d = decay d + (1 - decay) h. The first step has no d, and moves nothing. Close to AsyncSAM
    (https://arxiv.org/abs/2503.11147), whose d is the clean gradient of the step before.

    The gradient at w + eps has what the curvature makes of eps in it, and the next step would move
    along that again. Where that takes over, the weights swing about the valley at the distance of
    the radius, and nothing is learnt. So after a step in which the cosine between h and the d that
    it moved along, both of the layers that it moved, is above `rest`, one rests: it moves nothing,
    and its gradient is a clean one. What that changes is measured in docs/radius.md.

    There is no clean pass: loss and aux are those at the perturbed weights, as are BatchNorm
    statistics among them. The state holds one gradient, as much memory as the parameters that
    may move.

    With `fresh`, the name of a layer, only what stands in front of it moves along d. Then the
    gradient g of the other arrays is taken, with the front moved and these where they are; they
    move by the rule of the method along g ||d_back|| / ||g||, beside d in front. For SAM:

        eps_front = rho d_front / ||d||
        eps_back  = rho (||d_back|| / ||d||) g / ||g||

    Both passes run through the same perturbed front, so a step costs one gradient and that of the
    network from there on. Loss and aux are those at the perturbed weights, and the sharpness in
    the state is the first-order estimate `<grad L(w + eps), eps>`. The selection must be "all" or a
    list of layers, and the loss must be there, not a gradient function alone.

    Args:
      decay: of the running mean, in [0, 1). 0 keeps the last direction alone.
      fresh: the layer from whose place in the network on the ascent is fresh, as `layer_names`
        gives it; None for nowhere.
      rest: the cosine above which the next step rests, in (0, 1]; by default 0.6, while 1 never
        rests. Not beside `fresh`, where no step does.

    Returns:
      An ascent, for `with_parts`.

    Raises:
      ValueError, TypeError: if `decay` or `rest` is out of its range, `fresh` no name, or `rest`
        given beside it. When first used: if `fresh` is no layer, or the selection, the cadence or
        the loss does not go with it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.with_parts(lsam.sam(rho=2.5), ascent=lsam.stale())
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for _ in range(3):  # nothing to climb by; at w + 2.5 d / 5 with d = w; at rest
    ...     loss, direction, sam_state = step(w, sam_state)
    ...     print(direction.tolist())
    [3.0, 4.0]
    [4.5, 6.0]
    [3.0, 4.0]
    >>> net, loss_fn = {"a": jnp.asarray(3.0), "b": jnp.asarray(4.0)}, lambda p: p["a"] * p["b"]
    >>> tx = lsam.with_parts(lsam.sam(rho=2.5), ascent=lsam.stale(fresh="b"))
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(net)
    >>> for _ in range(2):  # d = (4, 3): a moves by 2.0 along it, b by 1.5 along its own gradient
    ...     loss, direction, sam_state = step(net, sam_state)
    ...     print({name: float(x) for name, x in direction.items()})
    {'a': 4.0, 'b': 3.0}
    {'a': 5.5, 'b': 5.0}
    """
    arguments.check_real("decay", decay, low=0.0, below=1.0)
    if fresh is not None and not isinstance(fresh, str):
        raise TypeError(f"fresh must be the name of a layer, or None; got fresh={fresh!r}.")
    if rest is not None:
        arguments.check_plain("rest", rest, above=0.0, most=1.0)
        if fresh is not None:
            raise ValueError(
                f"rest={rest!r} is for a direction that is all stale: leave it out beside "
                f"fresh={fresh!r}, where no step rests."
            )

    def mean(d: Any, h: Any, now: StepContext) -> Any:
        share = arguments.resolve(decay, now.count)
        return share * d + (1 - share) * h

    last = arguments.equals(decay, 0.0)
    along = _remembered(1, (lambda d, h, now: h) if last else mean)._replace(fresh=fresh)
    never = rest == 1 or fresh is not None
    return along if never else _resting(along, USUAL if rest is None else rest)


def momentum(decay: Any) -> Ascent:
    """Against the momentum `m = decay m + h`: no first pass at all (Momentum-SAM)."""
    return _remembered(-1, lambda m, h, now: decay * m + h)


def _remembered(sign: int, advance: Callable[[Any, Any, StepContext], Any]) -> Ascent:
    """Along (or against) what is remembered of the directions of the steps before."""

    def estimate(loss_of: Loss, w: Arrays, at: Targets, now: StepContext, memory: Any) -> Estimate:
        del loss_of, w
        d = now.layers.leaves(memory)
        uphill = [sign * d[n] for n in at.leaf]
        return None, None, uphill, uphill

    def update(memory: Any, direction: Arrays, now: StepContext) -> Any:
        def new(d: Any, h: Any) -> Any:
            return () if isinstance(d, tuple) else advance(d, h, now).astype(d.dtype)

        return now.layers.tree(list(map(new, now.layers.leaves(memory), direction)))

    return Ascent(estimate, False, zeros_like_layers, update)


def _moved(x: Arrays, now: StepContext) -> list[Any]:
    """Of the arrays that may move, what the step did move; 0 elsewhere."""
    at, one_radius = now.at, jnp.ndim(now.rho) == 0
    moved = [c if one_radius else c & (now.radius(i) > 0) for i, c in zip(at.layer, at.chosen)]
    return [a if m is True else jnp.where(m, a, jnp.zeros_like(a)) for a, m in zip(x, moved)]


def _resting(along: Ascent, rest: float) -> Ascent:
    """Along what is remembered, but not after a step whose gradient points along it itself."""

    def init(layers: Layers, leaves: Sequence[Any]) -> Resting:
        return Resting(along.init(layers, leaves), jnp.asarray(False))

    def update(memory: Resting, direction: Arrays, now: StepContext) -> Resting:
        new = along.update(memory.direction, direction, now)
        if now.rho is None or now.at is None or not now.at.leaf:  # a step that perturbs nothing
            return Resting(new, jnp.asarray(False))
        last = now.layers.leaves(memory.direction)
        d, h = (_moved([x[n] for n in now.at.leaf], now) for x in (last, direction))
        cosine = ratio(ratio(vdot(d, h), squared_norm(d)), squared_norm(h))
        return Resting(new, (cosine > rest) & jnp.any(now.rho > 0))

    def estimate(loss_of: Loss, w: Arrays, at: Targets, now: StepContext, memory: Any) -> Estimate:
        assert along.estimate is not None
        return along.estimate(loss_of, w, at, now, memory.direction)

    return along._replace(
        estimate=estimate, init=init, update=update, rests=lambda memory: memory.rests
    )
