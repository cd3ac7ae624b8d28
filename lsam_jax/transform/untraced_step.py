"""A step on a loss that cannot be traced first: its gradients as `jax.grad` takes them.

The engine skips what two passes share, for which it needs the loss as a program. Where there is
none (see `untraceable`), both gradients are those of the function as it is. Every method works by
that, and nothing is skipped but gradients that nobody asks for. The order of the network is
not known then, and that of the pytree stands in for it.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays import promotion
from lsam_jax.devices.collectives import check_loss
from lsam_jax.engine import auxiliary
from lsam_jax.engine.network import in_tree_order
from lsam_jax.engine.optional_second_pass import one_or_two
from lsam_jax.engine.step_rules import Chosen, StepResult
from lsam_jax.engine.traced_loss import PrefixSuffix, gradient_of, loss_and_aux, shapes_of
from lsam_jax.engine.two_losses import AscentLoss, two_losses
from lsam_jax.engine.two_pass import (
    OneCut,
    both_passes,
    gradient_of_wanted,
    in_one,
    nothing_moves,
)
from lsam_jax.transform.method import Method, checked, choose, numbers, shares_passes, starts_plain
from lsam_jax.transform.state import SamState
from lsam_jax.transform.step_rules import MethodStep, descent_of

Leaves = Sequence[Any]
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


@promotion.usual(theirs=1)
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
    layers, state = checked(method, params, state)
    axes, prepare, cadence = method.axes, method.descent.prepare, method.cadence
    leaves = axes.per_device_params([jnp.asarray(x) for x in layers.leaves(params)])
    with_aux = has_aux or prepare is not None

    def tree(leaves: Leaves) -> Any:
        return layers.tree(axes.with_mean_gradient(leaves))

    def untraced(loss_fn: Any) -> Untraced:
        prepared = auxiliary.closed(loss_fn if prepare is None else prepare(loss_fn, has_aux))

        def value(leaves: Leaves) -> tuple[Any, list[Any]]:
            out = prepared(tree(leaves))
            loss_and_aux(shapes_of(out), with_aux)
            loss, aux = out if with_aux else (out, None)
            check_loss(jax.typeof(loss), leaves, axes.names)
            return axes.mean_loss(loss) if axes.shares else loss, [aux]

        return Untraced(value)

    if method.ascent.fresh is not None:
        untraced(loss_fn).value_and_grad(leaves)  # a loss that fails by itself says why itself
        raise ValueError(
            f"fresh={method.ascent.fresh!r} needs the order of the layers in the network, and this "
            f"loss cannot be traced before it is differentiated. {reason} Or leave fresh out."
        )
    why = f"and this loss cannot be traced before it is differentiated. {reason}"
    network = in_tree_order(layers, leaves, why)
    candidates, selected, state = choose(method, network, state)
    chosen = Chosen(layers.of_leaf, network.position, candidates, selected)
    in_suffix = chosen.among(candidates)
    known = isinstance(selected, np.ndarray)
    everything = known and all(in_suffix)
    saved = ascent is None and shares_passes(method)
    second = descent_of(method, loss_fn, tree, lambda aux: aux[0][1])
    now = numbers(method, layers, state)
    rules = MethodStep(method, now, state, candidates, selected, leaves, second)
    loss_of = untraced(loss_fn)
    climbed = None if ascent is None else untraced(ascent.loss_fn)
    clean_aux = ascent is not None and ascent.clean_aux
    whole = _whole(loss_of.value, in_suffix)

    def perturbed(leaves: Leaves) -> StepResult:
        def passes(parts: PrefixSuffix) -> OneCut:
            wanted = None if known else selected
            return OneCut(parts, leaves, layers.of_leaf, in_suffix, gradient_of_wanted, wanted)

        if not candidates.any():
            return nothing_moves(loss_of, leaves, rules)
        if climbed is not None:
            uphill = passes(_whole(climbed.value, in_suffix))
            return two_losses(uphill, clean_aux, loss_of, rules)
        return both_passes(passes(whole), rules)

    def unperturbed(leaves: Leaves) -> StepResult:
        (loss, aux), g = loss_of.value_and_grad(leaves)
        return StepResult(loss, aux, rules.plain_step(g, loss))

    if candidates.any() and starts_plain(method, everything and climbed is None):
        result = one_or_two(whole, leaves, in_suffix, rules, _branch)
    elif cadence.due is not None:
        result = _branch(cadence.due(state.count), perturbed, unperturbed, leaves)
    else:
        result = perturbed(leaves)
    if saved and candidates.any() and not everything:
        _warn(reason)  # only now: a loss that fails this way too has an error of its own
    direction = layers.tree(result.outcome.direction)
    aux = result.aux[0] if prepare is None else result.aux[0][0]
    return (
        axes.average(result.loss),
        auxiliary.opened(aux),
        direction,
        rules.next_state(result.outcome),
    )


def _whole(
    value: Callable[[Leaves], tuple[Any, list[Any]]], in_suffix: Sequence[bool]
) -> PrefixSuffix:
    """The loss as the second part of a program, whose first part does nothing."""

    def prefix(early: Leaves) -> tuple[list[Any], list[Any]]:
        return list(early), []

    def suffix(hidden: Leaves, fixed: Leaves, late: Leaves) -> tuple[Any, list[Any]]:
        return value(in_one(hidden, late, in_suffix))

    return PrefixSuffix(prefix, lambda: suffix, writes=False)


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
