"""Gradients of many groups of arrays, of which only some are wanted at run time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax import costs, jaxprs

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

    if not gate:
        value, *rest = flat(*xs)
        aux, grads = rest[: -len(xs)], rest[-len(xs) :]
    else:
        closed = jax.make_jaxpr(flat)(*xs)
        always = len(closed.jaxpr.outvars) - len(xs)
        value, *rest = _run_gated(closed, xs, [None] * always + list(group), wanted, inside)
        aux, grads = rest[: always - 1], rest[always - 1 :]
    grads = [jnp.where(wanted[i], g, jnp.zeros_like(g)) for i, g in zip(group, grads)]
    return value, aux, grads


def _run_gated(
    closed: Any,
    args: Sequence[Any],
    group_of_output: Sequence[int | None],
    wanted: jax.Array,
    inside: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> list[Any]:
    jaxpr = closed.jaxpr
    common, own = _by_group(jaxpr, group_of_output)
    outputs = {i: [v for v, g in zip(jaxpr.outvars, group_of_output) if g == i] for i in own}
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    available = {*inputs, *(v for eqn in common for v in eqn.outvars)}
    needed = [v for v, g in zip(jaxpr.outvars, group_of_output) if g not in own]
    needed += [v for i, eqns in own.items() for v in jaxprs.variables_read(eqns, outputs[i])]
    boundary = list(dict.fromkeys(v for v in needed if jaxprs.is_variable(v) and v in available))
    run_common = jaxprs.as_function(common, inputs, boundary, jaxpr)
    env = dict(zip(boundary, run_common(*closed.consts, *args)))
    for i, eqns in own.items():
        outvars = list(dict.fromkeys(v for v in outputs[i] if jaxprs.is_variable(v)))
        reads = jaxprs.variables_read(eqns, outvars)
        run = inside(jaxprs.as_function(eqns, reads, outvars, jaxpr))
        values = [env[v] for v in reads]
        zeros = partial(_zeros, [v.aval for v in outvars])
        env.update(zip(outvars, jax.lax.cond(wanted[i], run, lambda *_, z=zeros: z(), *values)))
    return [env[v] if jaxprs.is_variable(v) else v.val for v in jaxpr.outvars]


def _by_group(
    jaxpr: Any, group_of_output: Sequence[int | None]
) -> tuple[list[Any], dict[int, list[Any]]]:
    """The equations that must run anyway, and those that serve one group's outputs alone."""
    serves: dict[Any, set[int | None]] = {}
    for v, i in zip(jaxpr.outvars, group_of_output):
        if jaxprs.is_variable(v):
            serves.setdefault(v, set()).add(i)
    owner: list[set[int | None]] = []
    for eqn in reversed(jaxpr.eqns):
        groups: set[int | None] = set().union(*(serves.get(v, ()) for v in eqn.outvars))
        if eqn.effects:
            groups.add(None)
        owner.append(groups)
        for v in eqn.invars:
            if jaxprs.is_variable(v):
                serves.setdefault(v, set()).update(groups)
    owner.reverse()
    cost = [costs.flops(eqn) for eqn in jaxpr.eqns]
    gated = {}
    for i in dict.fromkeys(i for i in group_of_output if i is not None):
        mine = [n for n, groups in enumerate(owner) if groups == {i}]
        if sum(cost[n] for n in mine) >= WORTH_GATING * sum(cost):
            gated[i] = [jaxpr.eqns[n] for n in mine]
    common = [
        eqn
        for eqn, groups in zip(jaxpr.eqns, owner)
        if groups and not any(groups == {i} for i in gated)
    ]
    return common, gated


def _zeros(avals: Sequence[Any]) -> list[jax.Array]:
    return [jnp.zeros(a.shape, a.dtype) for a in avals]
