"""Gradients of many groups of arrays, of which only some are wanted at run time."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax.devices import collectives
from lsam_jax.engine import effects, jaxprs
from lsam_jax.engine.flops import flops

WORTH_GATING = 0.0005
"""Share of a gradient's cost below which a conditional costs more than it can save."""


def gated_value_and_grad(
    wanted: jax.Array,
    fun: Callable[[Sequence[Any]], tuple[Any, list[Any]]],
    xs: Sequence[jax.Array],
    group: Sequence[int],
    *,
    gate: bool,
    inside: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> tuple[Any, list[Any], list[Any]]:
    """Value and gradient; the gradient of a group that is not wanted is zero.

    The equations that serve the gradient of one group only (the weight gradient of a layer, as
    against the error propagation) run under a `lax.cond` on that group being wanted.

    Args:
      wanted: bool[], whether each group's gradient is wanted.
      fun: from a list of arrays to a scalar and a list of auxiliary arrays.
      xs: the arrays.
      group: the group that each of `xs` belongs to.
      gate: False computes all gradients and sets those not wanted to zero.
      inside: a transformation of what runs inside a conditional.

    Returns:
      The scalar, the auxiliary arrays, the gradients.
    """

    def flat(*xs: Any) -> list[Any]:
        (value, aux), grads = jax.value_and_grad(fun, has_aux=True)(list(xs))
        return [value, *aux, *grads]

    closed = jax.make_jaxpr(flat)(*xs)
    jaxpr = closed.jaxpr
    always = len(jaxpr.outvars) - len(xs)
    outputs: dict[int, list[Any]] = {i: [] for i in group}
    for i, v in zip(group, jaxpr.outvars[always:]):
        outputs[i].append(v)
    common, own = _by_group(
        jaxpr, jaxpr.outvars[:always], outputs, WORTH_GATING if gate else math.inf
    )

    ungated = [v for i, vs in outputs.items() if i not in own for v in vs]
    reads = {i: jaxprs.variables_read(eqns, outputs[i]) for i, eqns in own.items()}
    needed = itertools.chain(jaxpr.outvars[:always], ungated, *reads.values())
    boundary = list(dict.fromkeys(v for v in needed if jaxprs.is_variable(v)))
    run_common = jaxprs.as_function(common, [*jaxpr.constvars, *jaxpr.invars], boundary, jaxpr)
    env = dict(zip(boundary, run_common(*closed.consts, *xs)))
    values = [env[v] if jaxprs.is_variable(v) else v.val for v in jaxpr.outvars[:always]]
    gradients: dict[int, list[Any]] = {}
    for i, outvars in outputs.items():
        zeros = partial(_zeros, [v.aval for v in outvars])
        if i in own:
            run = inside(jaxprs.as_function(own[i], reads[i], outvars, jaxpr))
            gradients[i] = jax.lax.cond(wanted[i], run, zeros, *(env[v] for v in reads[i]))
        else:
            found = [env[v] if jaxprs.is_variable(v) else v.val for v in outvars]
            gradients[i] = [jnp.where(wanted[i], g, jnp.zeros_like(g)) for g in found]
    in_order = {i: iter(gs) for i, gs in gradients.items()}
    return values[0], values[1:], [next(in_order[i]) for i in group]


def _by_group(
    jaxpr: Any, always: Sequence[Any], outputs: dict[int, list[Any]], worth: float
) -> tuple[list[Any], dict[int, list[Any]]]:
    """The equations that must run anyway, and those that serve one group's outputs alone."""
    serves: dict[Any, set[int | None]] = {v: {None} for v in always if jaxprs.is_variable(v)}
    for i, outvars in outputs.items():
        for v in filter(jaxprs.is_variable, outvars):
            serves.setdefault(v, set()).add(i)
    owner: list[set[int | None]] = []
    for eqn in reversed(jaxpr.eqns):
        groups: set[int | None] = set().union(*(serves.get(v, ()) for v in eqn.outvars))
        if not effects.is_only_collective(eqn):
            groups.add(None)
        owner.append(groups)
        for v in filter(jaxprs.is_variable, eqn.invars):
            serves.setdefault(v, set()).update(groups)
    owner.reverse()
    own: dict[int, list[Any]] = {}
    price = dict.fromkeys(outputs, 0.0)
    total = 0.0
    for eqn, groups in zip(jaxpr.eqns, owner):
        cost = flops(eqn)
        total += cost
        sole = next(iter(groups)) if len(groups) == 1 else None
        if sole is not None:
            own.setdefault(sole, []).append(eqn)
            price[sole] += cost
    own = {i: eqns for i, eqns in own.items() if price[i] >= worth * total}
    gated = {id(eqn) for eqns in own.values() for eqn in eqns}
    common = [e for e, groups in zip(jaxpr.eqns, owner) if groups and id(e) not in gated]
    return common, own


def _zeros(avals: Sequence[Any], *_: Any) -> list[jax.Array]:
    return [collectives.zeros_like_type(a) for a in avals]
