"""Uphill by what: the clean gradient, that of the step before, or differences of the loss.

The clean gradient is the engine's own, since it skips what nobody asks for. Any other ascent is a
function that stands in for it, and makes the first backward pass unnecessary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lsam_jax import arguments
from lsam_jax.components.context import (
    Arrays,
    StepContext,
    Targets,
    remember_nothing,
    zeros_like_layers,
)
from lsam_jax.layers.leaves import Layers

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
      fresh: the name of a layer: from its place in the network on, arrays move along their gradient
        at weights that `estimate`, which calls no loss, has moved in front; see `stale`.
    """

    estimate: Callable[[Loss, Arrays, Targets, StepContext, Any], Estimate] | None = None
    uses_loss: bool = True
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    update: Callable[[Any, Arrays, StepContext], Any] = lambda memory, direction, now: memory
    fresh: str | None = None


gradient = Ascent()
"""Uphill by the clean gradient of this step."""


def stale(decay: Any = 0.0, fresh: str | None = None) -> Ascent:
    """Uphill by the direction of the step before: no first pass, one gradient a step.

    The weights move along d by the rule of the method (for SAM: eps = rho d / ||d||), and d is the
    gradient that the step before descended on; with `decay`, the running mean
    d = decay d + (1 - decay) h. The first step has no d, and moves nothing. Close to AsyncSAM
    (https://arxiv.org/abs/2503.11147), whose d is the clean gradient of the step before.

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
    the state is the first-order estimate <grad L(w + eps), eps>. The selection must be "all" or a
    list of layers, and the loss must be there, not a gradient function alone.

    Args:
      decay: of the running mean, in [0, 1). 0 keeps the last direction alone.
      fresh: the layer from whose place in the network on the ascent is fresh, as `layer_names`
        gives it; None for nowhere.

    Returns:
      An ascent, for `with_parts`.

    Raises:
      ValueError, TypeError: if `decay` is out of its range, or `fresh` no name. When first used: if
        `fresh` is no layer, or the selection, the cadence or the loss does not go with it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.with_parts(lsam.sam(rho=2.5), ascent=lsam.stale())
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for _ in range(2):  # nothing to climb by; then at w + 2.5 d / 5 with d = w
    ...     loss, direction, sam_state = step(w, sam_state)
    ...     print(direction.tolist())
    [3.0, 4.0]
    [4.5, 6.0]
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
    if arguments.equals(decay, 0.0):
        return _remembered(1, lambda d, h, now: h)._replace(fresh=fresh)

    def mean(d: Any, h: Any, now: StepContext) -> Any:
        share = arguments.resolve(decay, now.count)
        return share * d + (1 - share) * h

    return _remembered(1, mean)._replace(fresh=fresh)


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
