"""One segment of a ladder: traced once forward and once backward, run at two sets of weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core as jex

from lsam_jax.engine import jaxprs
from lsam_jax.engine.chain import Chain, Segment, error_of
from lsam_jax.engine.conditionals import Conditionals
from lsam_jax.engine.gating import Gates

Values = Mapping[Any, Any]
"""By the variables of the program."""

UP = -1
"""The group of what is not an array that may move, beside the groups of those, their layers."""


class Ran(NamedTuple):
    """A run of a segment.

    Attributes:
      made: the values of what it makes, by variable.
      computed: what it computed for these, and for its way back.
      residuals: what its way back needs.
    """

    made: dict[Any, Any]
    computed: list[Any]
    residuals: list[Any]


class Rung:
    """A segment that is run forward, and differentiated by what that run has left.

    Args:
      segment: its equations.
      chain: the program that it is a part of.
      values: of what it reads, to be traced with.
      conditionals: how to leave out what is not needed.
    """

    def __init__(self, segment: Segment, chain: Chain, values: Values, conditionals: Conditionals):
        moving = chain.moving
        self._conditionals, self._start, self._end = conditionals, segment.start, segment.end
        self.reads = [v for v in segment.reads if v in moving]
        self._fixed = [v for v in segment.reads if v not in moving]
        self.makes = [v for v in segment.makes if v in moving and v in chain.reaching]
        beside = set(self.makes)
        self._beside = [v for v in segment.makes if v not in beside]
        run = jaxprs.as_function(
            segment.eqns,
            [*self.reads, *self._fixed],
            [*self.makes, *self._beside],
            chain.closed.jaxpr,
        )
        self._equations = run
        count = len(self.makes)

        def forward(moving: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
            def of_moving(moving: Sequence[Any]) -> tuple[list[Any], list[Any]]:
                out = run(*moving, *fixed)
                return out[:count], out[count:]

            makes, pull_back, beside = jax.vjp(of_moving, moving, has_aux=True)
            residuals, self._pull_back = jax.tree.flatten(pull_back)
            return [*makes, *beside, *residuals]

        args = [values[v] for v in self.reads], [values[v] for v in self._fixed]
        self._forward: jex.ClosedJaxpr = jax.make_jaxpr(forward)(*args)
        self._backward: jex.ClosedJaxpr | None = None
        jaxpr = self._forward.jaxpr
        given = {*jaxpr.constvars, *jaxpr.invars}
        # What is given is not to be handed through conditionals.
        self._computed = list(
            dict.fromkeys(v for v in jaxpr.outvars if jaxprs.is_variable(v) and v not in given)
        )

    def run(self, values: Values, first: Any = None, before: Ran | None = None) -> Ran:
        """A run, at these values of what is read.

        Args:
          values: by variable.
          first: i32[], the position of the first layer that has moved since the run `before`, whose
            values stand where nothing differs; None runs everything.
          before: that run.
        """
        jaxpr, consts = self._forward.jaxpr, self._forward.consts
        operands = [*consts, *(values[v] for v in (*self.reads, *self._fixed))]
        inputs = [*jaxpr.constvars, *jaxpr.invars]
        compute = jaxprs.as_function(jaxpr.eqns, inputs, self._computed, jaxpr)
        old = () if before is None else before.computed
        computed = self._unless(first, compute, old, operands)
        env = {**dict(zip(inputs, operands)), **dict(zip(self._computed, computed))}
        out = [env[v] if jaxprs.is_variable(v) else v.val for v in jaxpr.outvars]
        names = [*self.makes, *self._beside]
        return Ran(dict(zip(names, out)), computed, out[len(names) :])

    def again(self, values: Values, first: Any, made: Values) -> dict[Any, Any]:
        """What it makes, to be differentiated by others; `made` where nothing differs."""
        names = [*self.makes, *self._beside]
        operands = [values[v] for v in (*self.reads, *self._fixed)]
        old = [made[v] for v in names]
        return dict(zip(names, self._unless(first, self._equations, old, operands)))

    def back(self, ran: Ran, errors: Values) -> dict[Any, Any]:
        """From the errors of what it makes to those of all that it reads, by variable."""
        operands = self._operands(ran, errors)
        return dict(zip(self.reads, jex.jaxpr_as_fun(self._traced_back(operands))(*operands)))

    def back_where_wanted(
        self,
        ran: Ran,
        errors: Values,
        groups: Mapping[Any, Any],
        wanted: Mapping[Any, Any],
        first: Any,
        worth: float,
    ) -> dict[Any, Any]:
        """The same by conditionals, for what belongs to a group: zeros where it is not wanted.

        Args:
          ran: a run.
          errors: of what it makes.
          groups: the group of what is asked for, by variable; `UP` for what others make.
          wanted: bool[], by group.
          first: i32[], the position of the first layer that is wanted.
          worth: the operations that a conditional has to save.
        """
        operands = self._operands(ran, errors)
        closed = self._traced_back(operands)
        names: dict[Any, list[Any]] = {}
        results: dict[Any, list[Any]] = {}
        for v, result in zip(self.reads, closed.jaxpr.outvars):
            if v in groups:
                names.setdefault(groups[v], []).append(v)
                results.setdefault(groups[v], []).append(result)
        gates = Gates(closed, [], results, worth)
        wanted = {**wanted, UP: self._conditionals.visits(first < self._start)}
        _, found = gates.run(operands, wanted, self._conditionals, self._visits(first))
        return {v: x for i, vs in names.items() for v, x in zip(vs, found[i])}

    def _visits(self, first: Any) -> Any:
        if first is None or self._end is None:
            return True
        return self._conditionals.visits(first < self._end)

    def _unless(
        self,
        first: Any,
        run: Callable[..., list[Any]],
        old: Sequence[Any],
        operands: Sequence[Any],
    ) -> list[Any]:
        """What `run` gives, and what there was where nothing differs."""
        visits = self._visits(first)
        if visits is True:
            return run(*operands)
        if not old:
            return []
        run_inside = self._conditionals.inside(run)
        return list(
            jax.lax.cond(
                visits,
                lambda old, operands: list(run_inside(*operands)),
                lambda old, operands: list(old),
                list(old),
                list(operands),
            )
        )

    def _operands(self, ran: Ran, errors: Values) -> list[Any]:
        return [*ran.residuals, *(error_of(v, errors) for v in self.makes)]

    def _traced_back(self, operands: Sequence[Any]) -> jex.ClosedJaxpr:
        if self._backward is None:
            count = len(operands) - len(self.makes)

            def backward(*operands: Any) -> list[Any]:
                pull_back = jax.tree.unflatten(self._pull_back, operands[:count])
                return pull_back(list(operands[count:]))[0]

            self._backward = jax.make_jaxpr(backward)(*operands)
        return self._backward
