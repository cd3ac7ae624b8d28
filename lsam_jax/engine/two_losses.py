"""The engine where one loss is climbed and another descended: a part of a batch, and the whole.

The two passes share nothing, so nothing is cut: the ascent gradient is that of the arrays that may
move alone, whose backward pass ends at the first of them; the descent is one plain gradient at
the perturbed weights. On a share q of a batch a step costs 1 + q at most, without a conditional.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays.vectors import one_by_one
from lsam_jax.engine.step_rules import Chosen, StepResult, StepRules
from lsam_jax.engine.two_pass import latest, put

Leaves = Sequence[Any]


class AscentLoss(NamedTuple):
    """What is climbed, where it is not the loss that is descended.

    Attributes:
      loss_fn: a function of the parameters, of the kind of the other loss.
      clean_aux: whether the step's aux is that of this loss, at the clean weights.
    """

    loss_fn: Callable[[Any], Any]
    clean_aux: bool = False


class Differentiable(Protocol):
    """A loss: a `TracedLoss`, or one that cannot be traced."""

    def run(self, leaves: Leaves) -> tuple[Any, list[Any]]:
        """Loss and aux."""
        ...

    def value_and_grad(
        self, leaves: Leaves, wanted: Sequence[bool] | None = None
    ) -> tuple[tuple[Any, list[Any]], list[Any]]:
        """Loss and aux, and the gradient of the arrays that are wanted."""
        ...


class Climbed(NamedTuple):
    """An `AscentLoss` that can be differentiated.

    Attributes:
      loss: what is climbed.
      clean_aux: as there.
    """

    loss: Differentiable
    clean_aux: bool


def two_losses(
    ascent: Climbed,
    descent: Differentiable,
    leaves: Leaves,
    chosen: Chosen,
    cuts: Callable[[], Sequence[int]],
    inside: Callable[[Callable[..., Any]], Callable[..., Any]],
    rules: StepRules,
) -> StepResult:
    """Both passes of one step.

    Args:
      ascent: the loss that is climbed.
      descent: the loss that is descended.
      leaves: the parameters.
      chosen: which layers are perturbed.
      cuts: gives the positions at which the ascent's backward pass may end, ascending. More than
        one are the branches of a conditional.
      inside: a transformation of what runs inside a conditional.
      rules: those of the method.

    Returns:
      The loss that is descended, at the perturbed weights, and its aux unless `clean_aux`.
    """
    of_leaf, position, candidates, selected = chosen
    nowhere = [None] * len(leaves)
    if not candidates.any():
        (loss, aux), h = descent.value_and_grad(leaves)
        return StepResult(loss, aux, rules.finish(nowhere, h, nowhere, loss, loss, None))
    index = [n for n, i in enumerate(of_leaf) if i >= 0 and candidates[i]]

    def uphill(place: int, leaves: Leaves) -> tuple[Any, list[Any], list[Any]]:
        late = chosen.among(candidates & (position >= place))
        (clean, aux), found = ascent.loss.value_and_grad(leaves, late)
        rest = iter(found)
        return clean, aux, [next(rest) if late[n] else jnp.zeros_like(leaves[n]) for n in index]

    if rules.estimate is not None:
        clean, aux_there, up, g = rules.estimate(
            lambda late: ascent.loss.run(put(leaves, index, late)),
            [leaves[n] for n in index],
            index,
        )
    else:
        clean, aux_there, g = _at_last(cuts(), position, selected, uphill, inside, leaves)
        if not isinstance(selected, np.ndarray):
            here = one_by_one(selected, [of_leaf[n] for n in index])
            g = [jnp.where(c, x, jnp.zeros_like(x)) for c, x in zip(here, g)]
        up = g
    moved, radius = rules.perturb(up, [leaves[n] for n in index], index)
    wanted = None if rules.descend_unselected else [n in index for n in range(len(leaves))]
    (loss, aux), found = descent.value_and_grad(put(leaves, index, moved), wanted)
    h = found if wanted is None else put(nowhere, index, found)
    w = put(nowhere, index, moved)
    outcome = rules.finish(put(nowhere, index, g), h, w, clean, loss, radius)
    return StepResult(loss, aux_there if ascent.clean_aux else aux, outcome)


def _at_last(
    places: Sequence[int],
    position: np.ndarray,
    selected: Any,
    uphill: Callable[[int, Leaves], Any],
    inside: Callable[[Callable[..., Any]], Callable[..., Any]],
    leaves: Leaves,
) -> Any:
    """`uphill` from the last place in front of the first selected layer."""
    if len(places) == 1:
        return uphill(places[0], leaves)
    branches = [inside(partial(uphill, place)) for place in places]
    return jax.lax.switch(latest(places, position, selected), branches, list(leaves))
