"""One step: choose layers, compute both gradients, combine them, advance the state.

Nothing here knows a method by name: a `Method` holds the orthogonal choices (which layers, uphill
by what, how far, what to descend, when).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from lsam_jax import arguments
from lsam_jax.arrays import promotion
from lsam_jax.components.selector import fewest, wanted
from lsam_jax.devices.collectives import check_loss
from lsam_jax.devices.m_sharpness import check_references
from lsam_jax.devices.shardings import beside
from lsam_jax.engine.cpu_convolutions import quick_on_cpu
from lsam_jax.engine.cuts import network_of
from lsam_jax.engine.network import Network, in_tree_order
from lsam_jax.engine.passes import Cutting, passes_of
from lsam_jax.engine.stale_and_fresh import stale_and_fresh
from lsam_jax.engine.step_rules import Leaves, StepResult
from lsam_jax.engine.traced_loss import TracedLoss, cut, trace
from lsam_jax.engine.two_losses import AscentLoss, check_same_aux, two_losses
from lsam_jax.engine.two_pass import both_passes, nothing_moves, put
from lsam_jax.engine.untraceable import check_rules, watched
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.branches import Branches, taken
from lsam_jax.transform.method import Method, checked, initial_memory, layers_of, shares_passes
from lsam_jax.transform.state import Outcome, SamState, initial_state
from lsam_jax.transform.step_rules import at_step, in_types_of


@promotion.usual
def start(method: Method, params: Any) -> SamState:
    """The state before the first step."""
    layers = layers_of(method, params)
    return beside(initial_state(layers, initial_memory(method, layers, params)), params)


@promotion.usual(theirs=("loss_fn", "ascent"))
def step(
    method: Method,
    loss_fn: Callable[[Any], Any],
    params: Any,
    state: Any,
    has_aux: bool,
    ascent: AscentLoss | None = None,
) -> tuple[Any, Any, Any, SamState]:
    """One step by the engine: loss, aux, direction of descent, new state."""
    layers, arrays, state = checked(method, params, state)

    def tree(arrays: Leaves) -> Any:
        return layers.treedef.unflatten(method.axes.with_mean_gradient(arrays))

    traced = partial(_traced, method, tree=tree, leaves=arrays, has_aux=has_aux)
    program = traced(loss_fn)
    climbed = None if ascent is None else traced(ascent.loss_fn)
    clean_aux = ascent is not None and ascent.clean_aux
    if climbed is not None and clean_aux and method.cadence.due is not None:
        check_same_aux(climbed, program)
    network, cuts = network_at(method, layers, arrays, program, climbed)
    rules, chosen = at_step(method, layers, arrays, state, network)
    layers, leaves = rules.now.layers, rules.leaves
    program = program.on(layers, leaves)
    climbed = None if climbed is None else climbed.on(layers, leaves)
    rules = rules.descending(
        loss_fn, lambda leaves: tree(layers.arrays(leaves)), lambda aux: program.aux_of(aux)[1]
    )

    def perturbed(leaves: Leaves) -> StepResult:
        places = partial(cuts, chosen.candidates)
        skip = None if method.cuts == "auto" else True
        cutting = Cutting(places, skip, method.gate if climbed is None else False)
        if not chosen.candidates.any():
            return nothing_moves(program, leaves, rules)
        if method.ascent.fresh is not None:
            first = network.position[layers.names.index(method.ascent.fresh)]
            return stale_and_fresh(program, leaves, chosen, first, rules)
        if climbed is not None:
            uphill = passes_of(climbed, leaves, chosen, cutting)
            return two_losses(uphill, clean_aux, program, rules)
        of_aux = rules.descend is not None
        return both_passes(passes_of(program, leaves, chosen, cutting, of_aux), rules)

    branches = Branches(
        perturbed=perturbed,
        value_and_grad=program.value_and_grad,
        cut=partial(cut, program, leaves),
        branch=jax.lax.cond,
        one_loss=climbed is None,
    )
    losses = [program] if climbed is None else [program, climbed]
    result = quick_on_cpu(partial(taken, branches, chosen=chosen, rules=rules), losses)(leaves)
    aux = (climbed if climbed and clean_aux else program).settle(result.aux)
    return rules.handed_back(result, aux)


def network_at(
    method: Method,
    layers: Layers,
    arrays: Leaves,
    program: TracedLoss,
    climbed: TracedLoss | None = None,
) -> tuple[Network, Callable[[np.ndarray], list[int]]]:
    """The network of a loss, and of another that is climbed; from candidates to its cuts."""
    where = wanted(method.cuts, method.selector, climbed is None) if shares_passes(method) else 1
    least = fewest(method.selector, arguments.static_int(method.k))
    gated = climbed is None and method.gate is not False
    return network_of(program, arrays, layers, where, least, gated, climbed)[:2]


def _traced(
    method: Method,
    loss_fn: Any,
    *,
    tree: Callable[[Leaves], Any],
    leaves: Leaves,
    has_aux: bool,
) -> TracedLoss:
    """A loss of the leaves that the method can be given, checked."""
    axes, prepare = method.axes, method.descent.prepare
    prepared = loss_fn if prepare is None else prepare(loss_fn, has_aux)
    whole = watched(lambda leaves: prepared(tree(leaves)))
    program = trace(whole, leaves, has_aux or prepare is not None)
    check_loss(program.closed.out_avals[0], leaves, axes.names)
    check_references(program.references, axes)
    check_rules(program, leaves, loss_fn)
    return program.of_loss(axes.mean_loss, leaves) if axes.shares else program


@promotion.usual(theirs=("grad_fn",))
def step_by_gradient(
    method: Method, updates: Any, state: Any, params: Any, grad_fn: Callable[..., Any]
) -> tuple[Any, SamState]:
    """One step from a gradient function: direction of descent, new state."""
    layers, arrays, state = checked(method, params, state)
    _check_gradients_suffice(method)
    axes = method.axes
    network = in_tree_order(layers, layers.leaves_of(arrays))
    rules, chosen = at_step(method, layers, arrays, state, network)
    layers, leaves = rules.now.layers, rules.leaves
    extra = () if arguments.takes(grad_fn, 1, unsaid=True) else (0,)

    def gradient(leaves: Leaves) -> list[Any]:
        there = grad_fn(layers.tree(axes.as_local(leaves)), *extra)
        return axes.mean(_leaves_like(there, layers, "the result of grad_fn"))

    clean = _leaves_like(updates, layers, "updates")
    timed = method.cadence.due is not None or method.cadence.decide is not None
    if timed or method.ascent.estimate is None:  # otherwise it is not used
        clean = axes.mean(clean) if axes.are_local(clean) else gradient(leaves)
    # As the engine does: None for an array that cannot move, zeros for one that does not.
    may_move = rules.selected if rules.chosen_beforehand else np.ones(len(layers.names), bool)
    index = [n for n, may in enumerate(chosen.among(may_move)) if may]

    def perturbed(leaves: Leaves) -> Outcome:
        inside = [leaves[n] for n in index]
        if rules.estimate is None:
            uphill = g = rules.masked([clean[n] for n in index], index)
        else:
            _, _, uphill, g = rules.estimate(None, inside, index)
        moved, radius = rules.perturb(uphill, inside, index)
        h = gradient(put(leaves, index, moved))
        nowhere = [None] * len(leaves)
        g_all, w_all = put(nowhere, index, g), put(nowhere, index, moved)
        return rules.finish(g_all, h, w_all, radius=radius)

    def unperturbed(leaves: Leaves) -> Outcome:
        return rules.plain_step(clean)

    if timed:
        called_for, memory = rules.decide(clean)
        like = jax.eval_shape(unperturbed, leaves)  # grad_fn may be of another type than updates
        alike = lambda leaves: in_types_of(like, perturbed(leaves))  # noqa: E731
        out = rules.decided(jax.lax.cond(called_for, alike, unperturbed, leaves), memory)
    else:
        out = perturbed(leaves)
    return layers.tree(out.direction), rules.next_state(out)


def _check_gradients_suffice(method: Method) -> None:
    """Raises a ValueError if the method needs the loss itself."""
    if method.ascent.estimate is not None and method.ascent.uses_loss:
        raise ValueError(
            "grad_fn was given, but this method climbs by differences of the loss or of its "
            "gradients: pass value_fn."
        )
    if method.ascent.fresh is not None:
        raise ValueError(
            f"grad_fn was given, but fresh={method.ascent.fresh!r} asks for the loss, to run the "
            "network from that layer on: pass value_fn, or leave fresh out."
        )
    if method.descent.second is not None:
        raise ValueError(
            "grad_fn was given, but this method needs a part of the loss (see split_loss and "
            "per_sample): pass value_fn."
        )
    if method.rho.needs_loss:
        raise ValueError(
            "grad_fn was given, but rho=rise(share=...), or one whose target is a function of the "
            "loss, needs the loss at the perturbed weights: pass value_fn, or rise(0.3)."
        )


def _leaves_like(tree: Any, layers: Layers, what: str) -> list[Any]:
    found: Any = jax.tree.structure(tree)
    if found != layers.treedef:
        raise ValueError(f"{what} must be a pytree like params: {layers.treedef}; got {found}.")
    return layers.leaves(tree)
