"""When a step perturbs: always, every so many steps, or when the clean gradient calls for it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.layers import Layers
from lsam_jax.parts import remember_nothing


class Cadence(NamedTuple):
    """When to perturb; with neither function, always.

    Attributes:
      due: from the step count to bool[], before anything is computed: a step that is not due
        costs one gradient.
      decide: from the squared norm of the clean gradient, the step count and the memory to bool[]
        and the new memory: the clean gradient is always computed, a second only if called for.
      init: makes the memory from the layers and the leaves of the parameters.
    """

    due: Callable[[jax.Array], jax.Array] | None = None
    decide: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]] | None = None
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing


always = Cadence()


def every(period: Any) -> Cadence:
    """Perturbs in the first of every `period` steps, for `with_parts`.

    Composer's practice is every tenth step, at ten times the radius.

    Args:
      period: how many steps; a whole number, at least 1, or a schedule. 1 is every step.

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
    return Cadence(due=lambda count: count % arguments.resolve(period, count) == 0)


class Spread(NamedTuple):
    """Running mean and variance of the squared gradient norm, f32[] each."""

    mean: jax.Array
    variance: jax.Array


def above_usual(threshold: arguments.Scalar, decay: Any) -> Cadence:
    """Perturbs where the squared norm is at least `mean + threshold * sqrt(variance)` (AE-SAM)."""

    def decide(square: jax.Array, count: jax.Array, memory: Spread) -> tuple[jax.Array, Spread]:
        square = square.astype(jnp.float32)
        mean = decay * memory.mean + (1 - decay) * square
        variance = decay * memory.variance + (1 - decay) * (square - mean) ** 2
        c = jnp.asarray(arguments.resolve(threshold, count), jnp.float32)
        # An infinite threshold times a deviation of 0 is no number: it stands for itself.
        reach = jnp.where(jnp.isinf(c), c, c * jnp.sqrt(variance))
        mean, variance = (x.astype(jnp.float32) for x in (mean, variance))
        return square >= mean + reach, Spread(mean, variance)

    def init(layers: Layers, leaves: Sequence[Any]) -> Spread:
        del layers, leaves
        return Spread(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    return Cadence(decide=decide, init=init)
