"""When a step perturbs: always, in a window of steps, now and then, or when the gradient is large.

A window that can never open is refused: a run with SAM silently off looks like any other.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax import arguments
from lsam_jax.arrays.draws import check_seed, key_for
from lsam_jax.components.context import remember_nothing
from lsam_jax.layers.leaves import Layers


class Cadence(NamedTuple):
    """When to perturb; with neither function, always.

    Attributes:
      due: from the step count to bool[], before anything is computed: a step that is not due
        costs one gradient.
      decide: from the squared norm of the clean gradient, the step count and the memory to bool[]
        and the new memory: the clean gradient is always computed, a second only if called for.
      init: makes the memory from the layers and the leaves of the parameters.
      turn: from the step count to the number of the turn, which goes up by one from a step that is
        due to the next: "rotating" samples are taken by it. Of `every`, where the period is a
        number: one that a schedule makes longer takes some turns again.
    """

    due: Callable[[jax.Array], jax.Array] | None = None
    decide: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]] | None = None
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    turn: Callable[[jax.Array], jax.Array] = lambda count: count


always = Cadence()
"""Every step perturbs."""


def every(period: Any) -> Cadence:
    """Perturbs in the first of every `period` steps, for `with_parts`.

    Composer's practice is every tenth step, at ten times the radius.

    Args:
      period: how many steps; a whole number, at least 1, or a schedule, rounded down. 1 is every
        step. With a schedule, `ascent_samples="rotating"` may take the same samples again before
        all were taken.

    Raises:
      ValueError, TypeError: if `period` is out of its range.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w = jnp.asarray([3.0, 4.0])
    >>> tx = lsam.with_parts(lsam.sam(rho=0.5), when=lsam.every(2))
    >>> step, sam_state = lsam.value_and_grad(lambda w: jnp.sum(w**2) / 2, tx), tx.init(w)
    >>> for _ in range(3):
    ...     loss, direction, sam_state = step(w, sam_state)
    ...     print(sam_state.selected.tolist())
    [True]
    [False]
    [True]
    """
    arguments.check_count("period", period, low=1)
    if arguments.static_int(period) == 1:
        return always
    return Cadence(
        due=lambda count: count % arguments.resolve_whole(period, count) == 0,
        turn=lambda count: count // arguments.resolve_whole(period, count),
    )


def between(start: float, stop: float | None = None, steps: int | None = None) -> Cadence:
    """Perturbs from one step of a run to another, for `with_parts`.

    SAM in the last eighth of a run alone does nearly what it does in all of it, where labels are
    clean (late-phase SAM, https://arxiv.org/abs/2410.10373); with noisy labels it must start early.

    Args:
      start: the first step that perturbs, counted from 0; with `steps`, a share of the run.
      stop: the first that no longer does, likewise; None is the end of the run.
      steps: the length of the run; start and stop are then shares of it, from 0 to 1.

    Raises:
      TypeError: if they are not plain numbers.
      ValueError: if they are out of their range, or no step lies between them.

    >>> import lsam_jax as lsam
    >>> late = lsam.between(7 / 8, 1, steps=16)
    >>> [bool(late.due(count)) for count in (0, 13, 14, 15)]
    [False, False, True, True]
    """
    length = None if steps is None else _whole("steps", steps)

    def place(name: str, value: float, way_out: str = "") -> int:
        return _whole(name, value, way_out) if length is None else _share_of(length, name, value)

    first = place("start", start, " Pass steps=..., the length of the run, for shares of it.")
    last = None if stop is None else place("stop", stop)
    end = length if last is None else last
    if end is not None and first >= end:
        of = "" if steps is None else f" of steps={steps}"
        raise ValueError(
            f"start={start} and stop={stop}{of} leave no step between them, so nothing would ever "
            "be perturbed: pass a start before the stop, and before the end of the run."
        )
    if last is None:
        return Cadence(due=lambda count: count >= first) if first else always
    return Cadence(due=lambda count: (count >= first) & (count < last))


def bernoulli(p: arguments.Scalar, seed: int = 0) -> Cadence:
    """Perturbs each step with a probability, independently, for `with_parts`.

    That is RST, randomized sharpness-aware training (https://arxiv.org/abs/2203.09962).

    Args:
      p: the probability, above 0 and at most 1, or a schedule of it. 1 is every step.
      seed: the draws are a function of it and of the step count only, so all devices agree.

    Raises:
      ValueError, TypeError: if p is out of its range; 0 would never perturb.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> import optax
    >>> half = lsam.bernoulli(0.5, seed=1)
    >>> 400 < sum(bool(half.due(jnp.asarray(count))) for count in range(1000)) < 600
    True
    >>> tx = lsam.with_parts(lsam.sam(), when=lsam.bernoulli(optax.linear_schedule(0, 1, 1000)))
    """
    arguments.check_share("p", p)
    check_seed(seed)
    if arguments.equals(p, 1.0):
        return always

    def due(count: jax.Array) -> jax.Array:
        key = key_for("cadence", seed, count)
        return jax.random.uniform(key, (), jnp.float32) < arguments.resolve(p, count)

    return Cadence(due=due)


def _whole(name: str, value: Any, way_out: str = "") -> int:
    _check_plain(name, value)
    arguments.check_real(name, value, low=0.0)
    if not float(value).is_integer():
        raise ValueError(f"{name} must be a whole number of steps; got {name}={value!r}.{way_out}")
    return int(value)


def _share_of(steps: int, name: str, value: Any) -> int:
    _check_plain(name, value)
    if not 0 <= value <= 1:
        raise ValueError(
            f"{name} must be a share of the run, from 0 to 1, where steps={steps} is given; got "
            f"{name}={value!r}. Leave steps out to count in steps."
        )
    return round(value * steps)


def _check_plain(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a plain number; got {name}={value!r}.")
