"""A radius that sets itself: it follows what the perturbation does to the loss.

How far weights should move depends on the method, the part of the batch, the network and the
optimizer; by how much the loss should rise does not. That rise, on the batch that is descended, is
there for nothing: `r = <grad L(w + eps), eps>`, of the descent gradient and the perturbation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.components.context import Arrays, Effect, StepContext, Targets
from lsam_jax.components.radius import Radii
from lsam_jax.layers.leaves import Layers

AT_FIRST = 4.0
"""How many steps the average of the loss starts with."""

FEWEST, EARLY = 10, 100
"""Of the steps that move the weights, the first that say which radius goes with which rise; as many
as the first at least."""

FLAT, SEEN = 0.1, 0.01
"""A larger radius no longer raises the loss where the slope of log r against log rho is below the
first, once the variance of log rho is above the second."""


class Following(NamedTuple):
    """What the radius remembers, at `SamState.memory.radius`; float is JAX's default one.

    Attributes:
      rho: float[], the radius of the next step.
      first_loss: float[], the loss of the first step.
      loss: float[], running mean of the loss at the perturbed weights.
      rise: float[], running mean of r.
      steps: i32[], steps whose loss was seen.
      moves: i32[], those of them that moved the weights.
      at_bound: i32[], for how many of these in a row the radius has been at one of its bounds.
      log_rho, log_rho_variance, covariance, slow_rise: float[], running means by which is told
        whether a larger radius still raises the loss: of log rho, of its variance, of its
        covariance with r, and of r.
      early_rho, early_rise: float[], sums of the radius and of r over the first `EARLY` moves.
    """

    rho: Any
    first_loss: Any
    loss: Any
    rise: Any
    steps: Any
    moves: Any
    at_bound: Any
    log_rho: Any
    log_rho_variance: Any
    covariance: Any
    slow_rise: Any
    early_rho: Any
    early_rise: Any


def rise(
    target: arguments.Scalar | Callable[[Any, Any, Any], Any] | None = None,
    *,
    share: arguments.Scalar | None = None,
    cap: float | None = None,
    ratios: Radii | None = None,
    first: float = 0.1,
    bounds: tuple[float, float] = (1e-3, 10.0),
    speed: float = 0.2,
    averages: tuple[float, float] = (0.95, 0.8),
    reach: float = 2.0,
) -> Radii:
    r"""A radius that sets itself, to be given as `rho` to any method.

    After each step that moved the weights by eps it is multiplied by
    `exp(speed clip(log(target / r), -1, 1))`, r being a running mean of `<grad L(w + eps), eps>`:
    by how much, to first order, the perturbation raises the loss of the batch that is descended.
    Costs one inner product. The target is either in units of the loss (nats, for cross-entropy),

        rise(0.3)

    or a share of what has been learnt: with L_0 the loss of the first step, which is not perturbed,
    and L a running mean of the loss at the perturbed weights,

        rise(share=0.4, cap=0.2)        target = min(share / (1 - share) (L_0 - L), cap L_0)

    so a perturbation may undo that share of it, and at most cap of the first loss; where that is
    not positive there is no cap. The share depends on the task, about 0.1 where labels are clean,
    0.3 to 0.4 where 40 % of them are drawn anew, and far less on method, part of the batch, network
    and optimizer than a radius does. What is measured of that, and where it does not hold, is in
    docs/radius.md.

    SAM flattens what it looks at, so that the same radius raises the loss less and less. To follow
    that on and on would keep the network from learning. So the radius stays below `reach` times the
    one that the target needs by what the first steps say of radius and rise. Where a larger radius
    no longer raises the loss, it falls. A step that moves nothing leaves it as it is, and one whose
    loss or gradient is not finite halves it.

    Args:
      target: above 0; a number, a schedule, or a function of the first loss, the mean loss and the
        step. Under loss scaling by c, pass c target.
      share: in (0, 1); a number or a schedule. Loss scaling does not change what it does.
      cap: in (0, 1]; by default 0.2.
      ratios: `per_layer` radii, by which the radius is multiplied layer by layer.
      first: the first radius, within the bounds.
      bounds: the smallest and the largest radius. `SamState.memory.radius.at_bound` says for how
        many steps it has been at one of them.
      speed: the largest change of log rho in a step; 0 keeps the first radius.
      averages: decays of the running means of the loss and of r, in [0, 1).
      reach: how far the radius may go beyond what the first 100 moves say, above 0; inf for
        anywhere within the bounds.

    Raises:
      ValueError, TypeError: if an argument is out of its range. When first used: if only a
        `grad_fn` is there, and the target asks for the loss.

    >>> import jax, jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.sam(rho=lsam.rise(6.0))
    >>> step, sam_state = jax.jit(lsam.value_and_grad(loss_fn, tx)), tx.init(w)
    >>> for _ in range(60):
    ...     loss, direction, sam_state = step(w, sam_state)
    >>> print(round(float(sam_state.rho), 2), round(float(sam_state.rise), 2))  # rho (5 + rho) = 6
    1.0 6.0
    """
    aim, by_loss = _aim(target, share, cap)
    low, high = _checked_bounds(bounds)
    arguments.check_number("first", first, low=low, most=high)
    arguments.check_real("speed", speed, low=0.0)
    if not isinstance(averages, tuple | list) or len(averages) != 2:
        raise TypeError(f"averages must be two decays, (0.95, 0.8), say; got {averages!r}.")
    for decay in averages:
        arguments.check_number("averages", decay, low=0.0, below=1.0)
    arguments.check_plain("reach", reach, above=0.0, infinite=True)
    if ratios is not None and not isinstance(ratios, Radii):
        raise TypeError(f"ratios must be what per_layer(...) returns; got {ratios!r}.")

    def of(g: Arrays, at: Targets, now: StepContext, memory: Following) -> Any:
        rho = jnp.where(memory.steps == 0, 0.0, memory.rho) if by_loss else memory.rho
        return rho if ratios is None else rho * ratios.of(g, at, now, ())

    def update(memory: Following, effect: Effect, now: StepContext) -> Following:
        r = jnp.asarray(effect.rise, memory.rho.dtype)
        moved = r != 0
        seen = _with_loss(memory, effect.loss, moved, averages[0])
        new = _with_rise(seen, r, averages)
        goal = aim(new, now.count)
        step = arguments.resolve(speed, now.count) * _error(goal, new)
        far = reach * _radius_for(goal, new)
        rho = jnp.clip(jnp.minimum(memory.rho * jnp.exp(step), far), low, high)
        pinned = (rho <= low) | (rho >= high)
        new = new._replace(rho=rho, at_bound=jnp.where(pinned, memory.at_bound + 1, 0))
        return jax.tree.map(lambda old, new: jnp.where(moved, new, old), seen, new)

    def init(layers: Layers, leaves: Any) -> Following:
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        start = Following(zero + first, *[zero] * 3, *[none] * 3, *[zero] * 6)
        return jax.tree.map(jnp.copy, start)  # none is the other: a step may donate its state

    def recover(memory: Following) -> Following:
        return memory._replace(rho=jnp.maximum(memory.rho / 2, low))

    radii = Radii(of, init=init, update=update, recover=recover, needs_loss=by_loss)
    return radii if ratios is None else radii._replace(check=ratios.check)


def _aim(target: Any, share: Any, cap: Any) -> tuple[Callable[[Following, Any], Any], bool]:
    """The rise to be reached, of what is remembered and the step; whether it asks for the loss."""
    if (target is None) == (share is None):
        raise ValueError(
            "rise needs either a target, in units of the loss, or a share of what has been learnt: "
            f"rise(0.3) or rise(share=0.4); got target={target!r} and share={share!r}."
        )
    if share is None:
        if cap is not None:
            raise ValueError(f"cap={cap!r} bounds a share of what has been learnt: pass share=0.4.")
        arguments.check_real("target", target, above=0.0)
        if callable(target) and arguments.takes(target, 3, unsaid=False):  # and is no schedule
            return lambda memory, count: target(memory.first_loss, memory.loss, count), True
        return lambda memory, count: arguments.resolve(target, count), False
    most = 0.2 if cap is None else cap
    arguments.check_real("share", share, above=0.0, below=1.0)
    arguments.check_number("cap", most, above=0.0, most=1.0)

    def undone(memory: Following, count: Any) -> Any:
        part = arguments.resolve(share, count)
        left = memory.first_loss - memory.loss
        bound = jnp.where(memory.first_loss > 0, most * memory.first_loss, jnp.inf)
        return jnp.minimum(part / (1 - part) * left, bound)

    return undone, True


def _with_loss(memory: Following, loss: Any, moved: Any, decay: float) -> Following:
    """The memory with this loss; where nothing moved, as it would be had the weights moved."""
    if loss is None:
        return memory
    loss = jnp.asarray(loss, memory.loss.dtype) + jnp.where(moved, 0, memory.rise)
    keep = jnp.minimum(decay, memory.steps / (memory.steps + AT_FIRST))
    return memory._replace(
        first_loss=jnp.where(memory.steps == 0, loss, memory.first_loss),
        loss=keep * memory.loss + (1 - keep) * loss,
        steps=memory.steps + 1,
    )


def _with_rise(memory: Following, r: Any, averages: tuple[float, float]) -> Following:
    """The memory with this rise, and with what radius goes with what rise."""
    new, x = memory.moves == 0, jnp.log(memory.rho)
    slow, quick = (jnp.where(new, 0, decay) for decay in averages)
    of_x = (1 - slow) * (x - memory.log_rho)
    log_rho = memory.log_rho + of_x
    slow_rise = slow * memory.slow_rise + (1 - slow) * r
    early = memory.moves < EARLY
    return memory._replace(
        rise=quick * memory.rise + (1 - quick) * r,
        moves=memory.moves + 1,
        log_rho=log_rho,
        log_rho_variance=slow * memory.log_rho_variance + of_x * (x - log_rho),
        covariance=slow * memory.covariance + of_x * (r - slow_rise),
        slow_rise=slow_rise,
        early_rho=memory.early_rho + jnp.where(early, memory.rho, 0),
        early_rise=memory.early_rise + jnp.where(early, r, 0),
    )


def _radius_for(target: Any, memory: Following) -> Any:
    """The radius of this rise, after the first steps; infinite where they do not say.

    There r grows in proportion to rho, or to its square where the curvature makes it: the larger of
    the radii by both.
    """
    known = (memory.moves >= FEWEST) & (memory.early_rise > 0) & (target > 0)
    rises = jnp.where(known, memory.early_rise, 1)
    count = jnp.minimum(memory.moves, EARLY)
    times = jnp.where(known, target, 1) * count / rises
    rho = memory.early_rho / count * jnp.maximum(times, jnp.sqrt(times))
    return jnp.where(known, rho, jnp.inf)


def _error(target: Any, memory: Following) -> Any:
    """`log(target / r)` between -1 and 1; -1 where there is nothing to rise to."""
    tiny = float(jnp.finfo(jnp.float32).tiny)
    ratio = jnp.maximum(target, tiny) / jnp.maximum(memory.rise, tiny)
    error = jnp.where(target > 0, jnp.clip(jnp.log(ratio), -1, 1), -1)
    linear = memory.slow_rise * memory.log_rho_variance  # the covariance, were r in proportion
    flat = (memory.log_rho_variance > SEEN) & (linear > 0) & (memory.covariance < FLAT * linear)
    return jnp.where(flat, -jnp.abs(error), error)


def _checked_bounds(bounds: Any) -> tuple[float, float]:
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"bounds must be the smallest and the largest radius; got {bounds!r}.")
    for bound in bounds:
        arguments.check_plain("bounds", bound, above=0.0)
    low, high = map(float, bounds)
    if low > high:
        raise ValueError(
            f"bounds must be the smallest and the largest radius, in this order; got {bounds!r}."
        )
    return low, high
