"""The clean and the perturbed gradient of a step, and the loss cut in two for both.

Layers in front of the first perturbed one see the same weights in both passes. So the loss is
cut there; the prefix runs once, forward and backward, and serves both.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax

from lsam_jax.arrays.vectors import Place, masked, one_by_one
from lsam_jax.engine.step_rules import (
    Chosen,
    PerturbedPass,
    StepResult,
    StepRules,
    ValueAuxGrad,
)
from lsam_jax.engine.traced_loss import PrefixSuffix, TracedLoss, cut

Leaves = Sequence[Any]


class Differentiable(Protocol):
    """A loss: a `TracedLoss`, or one that cannot be traced."""

    def value_and_grad(
        self, leaves: Leaves, wanted: Sequence[bool] | None = None
    ) -> tuple[tuple[Any, list[Any]], list[Any]]:
        """Loss and aux, and the gradient of the arrays that are wanted."""
        ...


def nothing_moves(loss_fn: Differentiable, leaves: Leaves, rules: StepRules) -> StepResult:
    """One step of a method that has no layer to perturb."""
    (loss, aux), h = loss_fn.value_and_grad(leaves)
    nowhere = [None] * len(leaves)
    return StepResult(loss, aux, rules.finish(nowhere, h, nowhere, loss, loss, None))


class Passes(Protocol):
    """A loss at the clean weights, and its way to others.

    Attributes:
      index: the places of the arrays that may move among the leaves of the parameters.
      leaves: the parameters.
    """

    @property
    def index(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def leaves(self) -> Leaves: ...  # noqa: D102

    def clean_gradient(self) -> ValueAuxGrad:
        """Loss, aux, and the gradient of the arrays that may move: zeros if not selected."""
        ...

    def loss_of(self, late: Leaves) -> tuple[Any, list[Any]]:
        """Loss and aux at other values of the arrays that may move."""
        ...

    def at(self, moved: Leaves) -> "There":
        """What there is where these arrays have moved."""
        ...


class There(PerturbedPass, Protocol):
    """A loss at the perturbed weights."""

    def selected_gradient(self) -> ValueAuxGrad:
        """As `Passes.clean_gradient`, there."""
        ...


def climb(passes: Passes, rules: StepRules) -> tuple[Any, Any, Leaves, Leaves, Any]:
    """Uphill: clean loss, aux and gradient, the arrays that may move once they have, the radius."""
    late = [passes.leaves[n] for n in passes.index]
    if rules.estimate is None:
        loss, aux, g = passes.clean_gradient()
        uphill: Leaves = g
    else:
        loss, aux, uphill, g = rules.estimate(passes.loss_of, late, passes.index)
    moved, radius = rules.perturb(uphill, late, passes.index)
    return loss, aux, g, moved, radius


def both_passes(passes: Passes, rules: StepRules) -> StepResult:
    """One step of a method: uphill, move, downhill."""
    index = passes.index
    loss, aux, g, moved, radius = climb(passes, rules)
    there, nowhere = passes.at(moved), [None] * len(passes.leaves)
    if not rules.descend_unselected:
        perturbed_loss, aux_there, found = there.selected_gradient()
        h: Leaves = put(nowhere, index, found)
    elif rules.descend is None:
        perturbed_loss, aux_there, h = there.gradient(lambda loss, aux: loss)
    else:
        perturbed_loss, aux_there, h = rules.descend(aux, there)
    loss = loss if rules.has_clean_pass else None
    g_all, w_all = put(nowhere, index, g), put(nowhere, index, moved)
    outcome = rules.finish(g_all, h, w_all, loss, perturbed_loss, radius)
    if loss is None:
        loss, aux = perturbed_loss, aux_there
    return StepResult(loss, aux, outcome)


class OneCut:
    """A loss in two parts, of which the first is run once for both passes.

    Args:
      parts: the loss, cut.
      leaves: the parameters.
      of_leaf: the layer of each of them.
      in_suffix: which of them may move.
      gradient: a function `(wanted, loss_of, arrays, layers)`, as `gradient_of_wanted`.
      wanted: what it is given.
    """

    def __init__(
        self,
        parts: PrefixSuffix,
        leaves: Leaves,
        of_leaf: Sequence[Place],
        in_suffix: Sequence[bool],
        gradient: Callable[..., ValueAuxGrad],
        wanted: Any,
    ):
        self.leaves, self.in_suffix = leaves, in_suffix
        self.index = [n for n, late in enumerate(in_suffix) if late]
        self.early, self._late = in_two(leaves, in_suffix)
        self._suffix = parts.suffix()
        self.hidden, self.pull_back, self._fixed = jax.vjp(parts.prefix, self.early, has_aux=True)
        self._gradient: Callable[..., ValueAuxGrad] = partial(gradient, wanted, self.loss_of)
        if parts.writes:
            self._gradient = partial(_gradient_of_all, wanted, self.suffix, self.hidden)
        self._layers = [of_leaf[n] for n in self.index]

    def suffix(self, hidden: Leaves, late: Leaves) -> tuple[Any, list[Any]]:
        """Loss and aux, from what the first part gives and the arrays that may move."""
        return self._suffix(hidden, self._fixed, late)

    def loss_of(self, late: Leaves) -> tuple[Any, list[Any]]:
        """See `Passes`."""
        return self.suffix(self.hidden, late)

    def gradient_of_selected(self, late: Leaves) -> ValueAuxGrad:
        """As `clean_gradient`, at these values of the arrays that may move."""
        return self._gradient(late, self._layers)

    def clean_gradient(self) -> ValueAuxGrad:
        """See `Passes`."""
        return self.gradient_of_selected(self._late)

    def at(self, moved: Leaves) -> There:
        """See `Passes`."""
        return _BehindCut(self, moved)


class _BehindCut:
    """`There`, for `OneCut`."""

    def __init__(self, passes: OneCut, moved: Leaves):
        self._passes, self._moved = passes, moved
        self.weights = in_one(passes.early, moved, passes.in_suffix)

    def selected_gradient(self) -> ValueAuxGrad:
        return self._passes.gradient_of_selected(self._moved)

    def forward(self) -> tuple[Any, list[Any]]:
        return self._passes.loss_of(self._moved)

    def gradient(self, of: Callable[[Any, list[Any]], Any]) -> ValueAuxGrad:
        passes = self._passes

        def objective(hidden: Leaves, late: Leaves) -> tuple[Any, Any]:
            loss, aux = passes.suffix(hidden, late)
            return of(loss, aux), (loss, aux)

        both = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (at_cut, of_late), (loss, aux) = both(passes.hidden, self._moved)
        return loss, aux, in_one(passes.pull_back(at_cut)[0], of_late, passes.in_suffix)


def at_cut(
    program: TracedLoss,
    leaves: Leaves,
    chosen: Chosen,
    place: int,
    gradient: Callable[..., ValueAuxGrad],
    wanted: Any,
) -> OneCut:
    """A loss cut in front of a position; `gradient` and `wanted` as for `OneCut`."""
    in_suffix = chosen.among(chosen.candidates & (chosen.position >= place))
    parts = cut(program, leaves, in_suffix)
    return OneCut(parts, leaves, chosen.of_leaf, in_suffix, gradient, wanted)


def known_passes(program: TracedLoss, leaves: Leaves, chosen: Chosen) -> OneCut:
    """Where all candidates are selected: one cut, and only their gradients in the ascent."""
    return at_cut(program, leaves, chosen, 0, gradient_of_wanted, None)


def in_two(leaves: Leaves, in_suffix: Sequence[bool]) -> tuple[list[Any], list[Any]]:
    """The leaves before the cut, and those behind it."""
    early = [x for x, late in zip(leaves, in_suffix) if not late]
    return early, [x for x, late in zip(leaves, in_suffix) if late]


def in_one(early: Leaves, late: Leaves, in_suffix: Sequence[bool]) -> list[Any]:
    """The inverse of `in_two`."""
    parts = (iter(early), iter(late))
    return [next(parts[is_late]) for is_late in in_suffix]


def put(leaves: Leaves, index: Sequence[int], new: Leaves) -> list[Any]:
    """The leaves, with new ones at these places."""
    out = list(leaves)
    for n, x in zip(index, new):
        out[n] = x
    return out


def gradient_of_wanted(
    wanted: Any, loss_of: Callable[[Leaves], Any], params: Leaves, group: Sequence[Place]
) -> tuple[Any, list[Any], list[Any]]:
    """Loss, aux and gradient, which is zero for layers that are not wanted; None wants all."""
    (loss, aux), g = jax.value_and_grad(loss_of, has_aux=True)(list(params))
    return loss, aux, _masked(wanted, g, group)


def _gradient_of_all(
    wanted: Any,
    loss_of: Callable[[Leaves, Leaves], Any],
    hidden: Leaves,
    params: Leaves,
    group: Sequence[Place],
) -> tuple[Any, list[Any], list[Any]]:
    # JAX 0.10 cannot differentiate what writes to a reference something that does not depend on
    # the parameters. So what comes out of the prefix counts among them, as in the whole loss.
    both = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (loss, aux), (_, g) = both(list(hidden), list(params))
    return loss, aux, _masked(wanted, g, group)


def _masked(wanted: Any, g: list[Any], group: Sequence[Place]) -> list[Any]:
    if wanted is None:
        return g
    return list(map(masked, one_by_one(wanted, group), g))
