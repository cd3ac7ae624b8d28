"""The engine: the clean and the perturbed gradient of a step, with nothing computed twice.

Layers in front of the first perturbed one see the same weights in both passes. So the loss is
cut there; the prefix runs once, forward and backward, and serves both. Three things follow from
what is known before compilation:

- the layers to perturb are known: one cut, and only their gradients in the ascent;
- only the candidates are known: a few static cuts, one `lax.switch` that takes the latest cut
  in front of the first selected layer, and the weight gradients of unselected layers gated;
- nothing is perturbed: the plain gradient.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.engine.cpu_convolutions import canonical_convolutions, holds_convolution
from lsam_jax.engine.gating import gated_value_and_grad
from lsam_jax.engine.step_rules import (
    Chosen,
    PerturbedPass,
    StepResult,
    StepRules,
    ValueAuxGrad,
)
from lsam_jax.engine.traced_loss import PrefixSuffix, TracedLoss, cut

Leaves = Sequence[Any]


def two_pass(
    program: TracedLoss,
    leaves: Leaves,
    chosen: Chosen,
    cuts: Callable[[], Sequence[int]],
    gate: bool,
    rules: StepRules,
) -> StepResult:
    """Both passes of one step.

    Args:
      program: the loss.
      leaves: the parameters.
      chosen: which layers are perturbed.
      cuts: gives the positions at which to cut, ascending; asked only if there is a choice.
      gate: whether to skip the weight gradients of unselected layers by conditionals.
      rules: those of the method.
    """
    of_leaf, position, candidates, selected = chosen
    if not candidates.any():
        (loss, aux), h = program.value_and_grad(leaves)
        nowhere = [None] * len(leaves)
        return StepResult(loss, aux, rules.finish(nowhere, h, nowhere, loss, loss, None))

    # A function from the arrays that may move to both passes, for a static first position.
    def at(first: int, gradient: Callable[..., Any], wanted: Any, leaves: Leaves) -> StepResult:
        in_suffix = chosen.among(candidates & (position >= first))
        parts = cut(program, leaves, in_suffix)
        return at_cut(parts, leaves, of_leaf, in_suffix, gradient, wanted, rules)

    if isinstance(selected, np.ndarray):
        return at(0, gradient_of_wanted, None, leaves)
    inside = in_conditional(program)
    places = list(cuts())
    if len(places) == 1:
        gradient = partial(gated_value_and_grad, gate=gate, inside=inside)
        return at(places[0], gradient, selected, leaves)
    gradient = partial(gated_value_and_grad, gate=gate, inside=as_it_is)
    branches = [inside(partial(at, place, gradient)) for place in places]
    return jax.lax.switch(latest(places, position, selected), branches, selected, list(leaves))


def latest(places: Sequence[int], position: np.ndarray, selected: jax.Array) -> jax.Array:
    """Which of `places` is the last one at or in front of the first selected layer."""
    first = jnp.min(jnp.where(selected, jnp.asarray(position), len(position)))
    return jnp.searchsorted(jnp.asarray(places), first, side="right") - 1


def in_conditional(program: TracedLoss) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The transformation of what runs inside a conditional; see `convolutions`."""
    slow = jax.default_backend() == "cpu" and holds_convolution(program.closed.jaxpr)
    return canonical_convolutions if slow else as_it_is


def at_cut(
    parts: PrefixSuffix,
    leaves: Leaves,
    of_leaf: Sequence[int],
    in_suffix: Sequence[bool],
    gradient: Callable[..., tuple[Any, list[Any], list[Any]]],
    wanted: Any,
    rules: StepRules,
) -> StepResult:
    """Both passes if only the suffix may be perturbed."""
    prefix_params, suffix_params = in_two(leaves, in_suffix)
    index = [n for n, late in enumerate(in_suffix) if late]
    group = [of_leaf[n] for n in index]
    suffix = parts.suffix()
    hidden, pull_back, fixed = jax.vjp(parts.prefix, prefix_params, has_aux=True)

    def loss_of(hidden: Leaves, params: Leaves) -> tuple[Any, list[Any]]:
        return suffix(hidden, fixed, params)

    at_hidden = partial(loss_of, hidden)
    late_gradient = partial(gradient, wanted, at_hidden)
    if parts.writes:
        late_gradient = partial(_gradient_of_all, wanted, loss_of, hidden)
    if rules.estimate is None:
        loss, aux, g = late_gradient(suffix_params, group)
        uphill = g
    else:
        loss, aux, uphill, g = rules.estimate(at_hidden, suffix_params, index)
    moved, radius = rules.perturb(uphill, suffix_params, index)
    nothing = [None] * len(prefix_params)

    def whole_gradient(of: Callable[[Any, list[Any]], Any]) -> ValueAuxGrad:
        def objective(hidden: Leaves, params: Leaves) -> tuple[Any, Any]:
            loss, aux = loss_of(hidden, params)
            return of(loss, aux), (loss, aux)

        gradients, (loss, aux) = jax.grad(objective, argnums=(0, 1), has_aux=True)(hidden, moved)
        (h_prefix,) = pull_back(gradients[0])
        return loss, aux, in_one(h_prefix, gradients[1], in_suffix)

    if not rules.descend_unselected:
        perturbed_loss, aux_there, h_suffix = late_gradient(moved, group)
        h: Leaves = in_one(nothing, h_suffix, in_suffix)
    elif rules.descend is None:
        perturbed_loss, aux_there, h = whole_gradient(lambda loss, aux: loss)
    else:
        weights = in_one(prefix_params, moved, in_suffix)
        second = PerturbedPass(whole_gradient, lambda: at_hidden(moved), weights)
        perturbed_loss, aux_there, h = rules.descend(aux, second)
    g_all, w_all = (in_one(nothing, x, in_suffix) for x in (g, moved))
    loss = loss if rules.has_clean_pass else None
    outcome = rules.finish(g_all, h, w_all, loss, perturbed_loss, radius)
    if loss is None:
        loss, aux = perturbed_loss, aux_there
    return StepResult(loss, aux, outcome)


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
    wanted: Any, loss_of: Callable[[Leaves], Any], params: Leaves, group: Sequence[int]
) -> tuple[Any, list[Any], list[Any]]:
    """Loss, aux and gradient, which is zero for groups that are not wanted; None wants all."""
    (loss, aux), g = jax.value_and_grad(loss_of, has_aux=True)(list(params))
    return loss, aux, _masked(wanted, g, group)


def _gradient_of_all(
    wanted: Any,
    loss_of: Callable[[Leaves, Leaves], Any],
    hidden: Leaves,
    params: Leaves,
    group: Sequence[int],
) -> tuple[Any, list[Any], list[Any]]:
    # JAX 0.10 cannot differentiate what writes to a reference something that does not depend on
    # the parameters. So what comes out of the prefix counts among them, as in the whole loss.
    both = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (loss, aux), (_, g) = both(list(hidden), list(params))
    return loss, aux, _masked(wanted, g, group)


def _masked(wanted: Any, g: list[Any], group: Sequence[int]) -> list[Any]:
    if wanted is None:
        return g
    return [jnp.where(wanted[i], x, jnp.zeros_like(x)) for i, x in zip(group, g)]


def as_it_is(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The transformation that changes nothing."""
    return fun
