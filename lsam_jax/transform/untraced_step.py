"""A step on a loss that cannot be traced first: its gradients as `jax.grad` takes them.

The engine skips what two passes share, for which it needs the loss as a program. Where there is
none (see `untraceable`), both gradients are those of the function as it is. Every method works by
that, and nothing is skipped but gradients that nobody asks for. The order of the network is
not known then, and that of the pytree stands in for it.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from lsam_jax.arrays import promotion
from lsam_jax.devices.collectives import check_loss
from lsam_jax.engine import auxiliary
from lsam_jax.engine.network import in_tree_order
from lsam_jax.engine.step_rules import Chosen, Leaves, StepResult
from lsam_jax.engine.traced_loss import PrefixSuffix, gradient_of, loss_and_aux, shapes_of
from lsam_jax.engine.two_losses import AscentLoss, two_losses
from lsam_jax.engine.two_pass import (
    OneCut,
    both_passes,
    gradient_of_wanted,
    in_one,
    nothing_moves,
)
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.branches import Branches, taken
from lsam_jax.transform.method import Method, checked, shares_passes
from lsam_jax.transform.state import SamState
from lsam_jax.transform.step_rules import MethodStep, at_step

LIBRARIES = ("lsam_jax", "jax", "optax")


class Untraced(NamedTuple):
    """A loss as it is.

    Attributes:
      value: from the parameters' leaves to the loss and aux, in a list.
    """

    value: Callable[[Leaves], tuple[Any, list[Any]]]

    def value_and_grad(self, leaves: Leaves, wanted: Sequence[bool] | None = None) -> Any:
        """The loss and aux, and the gradient: of the leaves that are wanted."""
        return gradient_of(self.value, leaves, wanted)

    def cut(self, may_move: Sequence[bool]) -> PrefixSuffix:
        """The loss as the second part of a program, whose first part does nothing."""

        def prefix(early: Leaves) -> tuple[list[Any], list[Any]]:
            return list(early), []

        def suffix(hidden: Leaves, fixed: Leaves, late: Leaves) -> tuple[Any, list[Any]]:
            return self.value(in_one(hidden, late, may_move))

        return PrefixSuffix(prefix, lambda: suffix, writes=False)


@promotion.usual(theirs=("loss_fn", "ascent"))
def untraced_step(
    method: Method,
    loss_fn: Callable[[Any], Any],
    params: Any,
    state: Any,
    has_aux: bool,
    ascent: AscentLoss | None,
    reason: str,
) -> tuple[Any, Any, Any, SamState]:
    """One step by gradients of the whole: loss, aux, direction of descent, new state."""
    layers, arrays, state = checked(method, params, state)

    def tree(leaves: Leaves) -> Any:
        return layers.tree(method.axes.with_mean_gradient(leaves))

    untraced = partial(_untraced, method, tree=tree, has_aux=has_aux)
    program = untraced(loss_fn)
    climbed = None if ascent is None else untraced(ascent.loss_fn)
    try:
        rules, chosen = _chosen(method, layers, arrays, state, reason)
        refused = None
    except ValueError as error:
        refused = error
    if refused is not None:
        # A loss that fails by itself says why itself.
        program.value_and_grad(layers.leaves_of(arrays))
        raise refused
    rules = rules.descending(loss_fn, tree, lambda aux: aux[0][1])
    layers, leaves = rules.now.layers, rules.leaves
    may_move = chosen.among(chosen.candidates)

    def passes(loss: Untraced) -> OneCut:
        wanted = None if rules.chosen_beforehand else chosen.selected
        parts = loss.cut(may_move)
        return OneCut(parts, leaves, layers.of_leaf, may_move, gradient_of_wanted, wanted)

    def perturbed(leaves: Leaves) -> StepResult:
        if not chosen.candidates.any():
            return nothing_moves(program, leaves, rules)
        if ascent is not None and climbed is not None:
            return two_losses(passes(climbed), ascent.clean_aux, program, rules)
        return both_passes(passes(program), rules)

    branches = Branches(
        perturbed=perturbed,
        value_and_grad=program.value_and_grad,
        cut=program.cut,
        branch=_branch,
        one_loss=climbed is None,
    )
    result = taken(branches, leaves, chosen, rules)
    some = chosen.candidates.any() and not (rules.chosen_beforehand and all(may_move))
    if some and climbed is None and shares_passes(method):
        _warn(reason)  # only now: a loss that fails this way too has an error of its own
    return rules.handed_back(result, result.aux[0])


def _chosen(
    method: Method, layers: Layers, arrays: Leaves, state: SamState, reason: str
) -> tuple[MethodStep, Chosen]:
    """The method at the step; or a ValueError if it takes the loss as a program to say which."""
    why = "this loss cannot be traced before it is differentiated. " + reason
    if method.ascent.fresh is not None:
        raise ValueError(
            f"fresh={method.ascent.fresh!r} needs the order of the layers in the network, and "
            f"{why} Or leave fresh out."
        )
    network = in_tree_order(layers, layers.leaves_of(arrays), f"and {why}")
    return at_step(method, layers, arrays, state, network)


def _untraced(
    method: Method, loss_fn: Any, *, tree: Callable[[Leaves], Any], has_aux: bool
) -> Untraced:
    """A loss that the method can be given, checked when it is called."""
    axes, prepare = method.axes, method.descent.prepare
    with_aux = has_aux or prepare is not None
    prepared = auxiliary.closed(loss_fn if prepare is None else prepare(loss_fn, has_aux))

    def value(leaves: Leaves) -> tuple[Any, list[Any]]:
        out = prepared(tree(leaves))
        loss_and_aux(shapes_of(out), with_aux)
        loss, aux = out if with_aux else (out, None)
        check_loss(jax.typeof(loss), leaves, axes.names)
        return axes.mean_loss(loss) if axes.shares else loss, [aux]

    return Untraced(value)


def _branch(
    called_for: Any, yes: Callable[[Any], Any], no: Callable[[Any], Any], operand: Any
) -> Any:
    """`jax.lax.cond`, which traces its branches, only where the choice is not known."""
    if isinstance(called_for, jax.core.Tracer):
        return jax.lax.cond(called_for, yes, no, operand)
    return (yes if called_for else no)(operand)


def _warn(reason: str) -> None:
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(
        "The loss cannot be traced before it is differentiated, so a step takes two gradients of "
        "the whole: it is right, but costs more than it might, and the order of layers is that of "
        f"the pytree. {reason}",
        stacklevel=level,
    )
