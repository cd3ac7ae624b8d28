"""Programs with results for many groups, of which only some are wanted at run time."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from lsam_jax.arrays.vectors import Place, masked, one_by_one
from lsam_jax.devices import collectives
from lsam_jax.engine import effects, jaxprs
from lsam_jax.engine.conditionals import Conditionals
from lsam_jax.engine.flops import flops, total_flops

WORTH_GATING = 0.0005
"""Share of a gradient's cost below which a conditional costs more than it can save."""


class Gates:
    """A program whose results serve groups, and the equations that serve one group alone.

    Args:
      closed: the program.
      always: those of its results that are wanted anyway.
      groups: the results that serve each group.
      worth: the operations that a conditional has to save; infinity for no conditional at all.
    """

    def __init__(
        self,
        closed: jex.ClosedJaxpr,
        always: Sequence[Any],
        groups: Mapping[Any, Sequence[Any]],
        worth: float,
    ):
        self._closed, self._always, self._groups = closed, always, groups
        common, self._own = _by_group(closed.jaxpr, always, groups, worth)
        self._reads = {i: jaxprs.variables_read(eqns, groups[i]) for i, eqns in self._own.items()}
        given = {*closed.jaxpr.constvars, *closed.jaxpr.invars}
        free = [v for i, vs in groups.items() if i not in self._own for v in vs]
        needed = [*always, *free, *(v for vs in self._reads.values() for v in vs)]
        self._boundary = list(
            dict.fromkeys(v for v in needed if jaxprs.is_variable(v) and v not in given)
        )
        inputs = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
        self._common = jaxprs.as_function(common, inputs, self._boundary, closed.jaxpr)

    def run(
        self,
        args: Sequence[Any],
        wanted: Mapping[Any, Any],
        conditionals: Conditionals,
        at_all: Any = True,
    ) -> tuple[list[Any], dict[Any, list[Any]]]:
        """What is wanted anyway, and the results of each group: zeros where it is not wanted.

        Args:
          args: the arguments of the program.
          wanted: bool[], for each group; True for one that surely is.
          conditionals: how to leave out what is not needed.
          at_all: whether anything is wanted; if it is not True, but bool[], all of it is inside
            conditionals.
        """
        operands = [*self._closed.consts, *args]
        results = [*self._always, *(v for vs in self._groups.values() for v in vs)]
        nested = conditionals.nested and at_all is not True
        finish = partial(self._finish, wanted=wanted, conditionals=conditionals)

        def everything(*operands: Any) -> list[Any]:
            return finish(operands, self._common(*operands))

        if nested and results:
            zeros = partial(_zeros, results)
            out = jax.lax.cond(at_all, everything, zeros, *operands)
        elif at_all is True or not self._boundary:
            out = everything(*operands)
        else:
            zeros = partial(_zeros, self._boundary)
            out = finish(operands, jax.lax.cond(at_all, self._common, zeros, *operands))
        rest = iter(out)
        always = [next(rest) for _ in self._always]
        return always, {i: [next(rest) for _ in vs] for i, vs in self._groups.items()}

    def _finish(
        self,
        operands: Sequence[Any],
        boundary: Sequence[Any],
        wanted: Mapping[Any, Any],
        conditionals: Conditionals,
    ) -> list[Any]:
        """The results, of what the equations that are run anyway have given."""
        jaxpr = self._closed.jaxpr
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], operands))
        env.update(zip(self._boundary, boundary))

        def read(atoms: Sequence[Any]) -> list[Any]:
            return [env[v] if jaxprs.is_variable(v) else jnp.asarray(v.val) for v in atoms]

        found = read(self._always)
        for i, outvars in self._groups.items():
            some = wanted[i]
            if i in self._own:
                own = jaxprs.as_function(self._own[i], self._reads[i], outvars, jaxpr)
                zeros, reads = partial(_zeros, outvars), read(self._reads[i])
                at_all = conditionals.surely if some is True else jnp.any(some)
                out = conditionals.gated(at_all, own, zeros, reads)
                is_whole = some is True or not jnp.ndim(some)
            else:
                out, is_whole = read(outvars), some is True
            found += out if is_whole else [masked(some, x) for x in out]
        return found


def gated_value_and_grad(
    selected: jax.Array,
    fun: Callable[[Sequence[Any]], tuple[Any, list[Any]]],
    xs: Sequence[jax.Array],
    group: Sequence[Place],
    conditionals: Conditionals,
) -> tuple[Any, list[Any], list[Any]]:
    """Value and gradient; the gradient of a group that is not wanted is zero.

    The equations that serve the gradient of one group only (the weight gradient of a layer, as
    against the error propagation) run under a `lax.cond` on that group being wanted.

    Args:
      selected: bool[L], the layers whose gradients are wanted.
      fun: from a list of arrays to a scalar and a list of auxiliary arrays.
      xs: the arrays.
      group: the layer that each of `xs` belongs to, or those of its rows.
      conditionals: how to leave out what is not needed.

    Returns:
      The scalar, the auxiliary arrays, the gradients.
    """

    def flat(*xs: Any) -> list[Any]:
        (value, aux), grads = jax.value_and_grad(fun, has_aux=True)(list(xs))
        return [value, *aux, *grads]

    closed = jax.make_jaxpr(flat)(*xs)
    outvars = closed.jaxpr.outvars
    always = len(outvars) - len(xs)
    outputs: dict[Any, list[Any]] = {i: [] for i in group}
    for i, v in zip(group, outvars[always:]):
        outputs[i].append(v)
    worth = worth_gating(total_flops(closed.jaxpr), conditionals)
    gates = Gates(closed, outvars[:always], outputs, worth)
    wanted = dict(zip(group, one_by_one(selected, group)))
    (value, *aux), found = gates.run(xs, wanted, conditionals)
    in_order = {i: iter(gs) for i, gs in found.items()}
    return value, aux, [next(in_order[i]) for i in group]


def worth_gating(cost: float, conditionals: Conditionals) -> float:
    """The operations that a gate has to save, where a gradient takes `cost` of them."""
    return math.inf if conditionals.gates is False else WORTH_GATING * cost


def _by_group(
    jaxpr: Any, always: Sequence[Any], groups: Mapping[Any, Sequence[Any]], worth: float
) -> tuple[list[Any], dict[Any, list[Any]]]:
    """The equations that must run anyway, and those that serve one group's results alone."""
    anyway = object()
    serves: dict[Any, set[Any]] = {v: {anyway} for v in always if jaxprs.is_variable(v)}
    for i, outvars in groups.items():
        for v in filter(jaxprs.is_variable, outvars):
            serves.setdefault(v, set()).add(i)
    owner: list[set[Any]] = []
    for eqn in reversed(jaxpr.eqns):
        served: set[Any] = set().union(*(serves.get(v, ()) for v in eqn.outvars))
        if not effects.is_only_collective(eqn):
            served.add(anyway)
        owner.append(served)
        for v in filter(jaxprs.is_variable, eqn.invars):
            serves.setdefault(v, set()).update(served)
    owner.reverse()
    own: dict[Any, list[Any]] = {}
    price = dict.fromkeys(groups, 0.0)
    for eqn, served in zip(jaxpr.eqns, owner):
        sole = next(iter(served)) if len(served) == 1 else anyway
        if sole is not anyway:
            own.setdefault(sole, []).append(eqn)
            price[sole] += flops(eqn)
    own = {i: eqns for i, eqns in own.items() if price[i] >= worth}
    gated = {id(eqn) for eqns in own.values() for eqn in eqns}
    common = [e for e, served in zip(jaxpr.eqns, owner) if served and id(e) not in gated]
    return common, own


def _zeros(like: Sequence[Any], *_: Any) -> list[jax.Array]:
    return [collectives.zeros_like_type(v.aval) for v in like]
