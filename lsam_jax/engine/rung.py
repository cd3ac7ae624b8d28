"""One segment of a ladder: traced once forward and once backward, run at two sets of weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core as jex

from lsam_jax.engine import jaxprs
from lsam_jax.engine.both_ways import BothWays
from lsam_jax.engine.chain import Asked, Chain, Part, Segment, error_of
from lsam_jax.engine.conditionals import Conditionals
from lsam_jax.engine.gating import Gates

Values = Mapping[Any, Any]
"""By the variables of the program."""

UP, REST = -1, -2
"""The groups of what others make and of all else, beside those of arrays that may move, their
layers."""


class Ran(NamedTuple):
    """A run of a segment.

    Attributes:
      made: the values of what it makes, by variable.
      given: what it was given.
      computed: what it computed for these, and for its way back.
    """

    made: dict[Any, Any]
    given: list[Any]
    computed: list[Any]


class Rung:
    """A segment that is run forward, and differentiated by what that run has left.

    Args:
      segment: its equations.
      chain: the program that it is a part of.
      values: of what it reads, to be traced with.
      conditionals: how to leave out what is not needed.
    """

    def __init__(self, segment: Segment, chain: Chain, values: Values, conditionals: Conditionals):
        self._conditionals, self._start, self._end = conditionals, segment.start, segment.end
        self._reads, self._makes = segment.reads, segment.makes
        self._equations = jaxprs.as_function(
            segment.eqns, segment.reads, segment.makes, chain.closed.jaxpr
        )
        moving = [n for n, v in enumerate(segment.reads) if v in chain.moving]
        wanted = chain.moving & chain.reaching
        self._ways = BothWays(
            self._equations,
            moving,
            results=[n for n, v in enumerate(segment.makes) if v in wanted],
            handed_on=0,
            args=self._given(values),
        )

    def run(self, values: Values, part: Part | None = None, before: Ran | None = None) -> Ran:
        """A run, at these values of what is read.

        Args:
          values: by variable.
          part: what has moved since the run `before`, whose values stand where nothing differs;
            None runs everything.
          before: that run.
        """
        given = self._given(values)
        old = () if before is None else before.computed
        # What is given is not handed through conditionals.
        computed = self._unless(part, self._ways.run, old, given)
        made = self._ways.kept_results(given, computed)
        return Ran(dict(zip(self._makes, made)), given, computed)

    def again(self, values: Values, part: Part, made: Values) -> dict[Any, Any]:
        """What it makes, to be differentiated by others; `made` where nothing differs."""
        old = [made[v] for v in self._makes]
        new = self._unless(part, self._equations, old, self._given(values))
        return dict(zip(self._makes, new))

    def back(self, ran: Ran, errors: Values, alike: Asked | None = None) -> dict[Any, Any]:
        """From the errors of what it makes to those of all that it reads, by variable.

        Args:
          ran: a run.
          errors: of what it makes.
          alike: all that it reads, to be asked for by conditionals like those of
            `back_where_wanted`, unless these would hold what is seen from outside; None for none.
        """
        args = self._arguments(ran, errors)
        closed = self._ways.way_back(args)
        if alike is not None and not any(eqn.effects for eqn in closed.jaxpr.eqns):
            return self.back_where_wanted(ran, errors, alike)
        return dict(zip(self._moving(), jex.jaxpr_as_fun(closed)(*args)))

    def back_where_wanted(self, ran: Ran, errors: Values, asked: Asked) -> dict[Any, Any]:
        """The same by conditionals, for what is asked for: zeros where it is not wanted."""
        args, groups, part = self._arguments(ran, errors), asked.groups, asked.part
        closed = self._ways.way_back(args)
        names: dict[Any, list[Any]] = {}
        results: dict[Any, list[Any]] = {}
        for v, result in zip(self._moving(), closed.jaxpr.outvars):
            if v in groups:
                names.setdefault(groups[v], []).append(v)
                results.setdefault(groups[v], []).append(result)
        gates = Gates(closed, [], results, asked.worth)
        wanted = {UP: part.reached[self._start], **asked.wanted}
        _, found = gates.run(args, wanted, self._conditionals, self._visits(part))
        return {v: x for i, vs in names.items() for v, x in zip(vs, found[i])}

    def _visits(self, part: Part | None) -> Any:
        return True if part is None or self._end is None else part.reached[self._end]

    def _unless(
        self,
        part: Part | None,
        run: Callable[..., list[Any]],
        old: Sequence[Any],
        operands: Sequence[Any],
    ) -> list[Any]:
        """What `run` gives, and what there was where nothing differs."""
        visits = self._visits(part)
        if visits is True:
            return run(*operands)
        if not old:
            return []
        return list(
            jax.lax.cond(
                visits,
                lambda old, operands: list(run(*operands)),
                lambda old, operands: list(old),
                list(old),
                list(operands),
            )
        )

    def _moving(self) -> list[Any]:
        return [self._reads[n] for n in self._ways.moving]

    def _given(self, values: Values) -> list[Any]:
        return [values[v] for v in self._reads]

    def _arguments(self, ran: Ran, errors: Values) -> list[Any]:
        of_results = [error_of(self._makes[n], errors) for n in self._ways.results]
        return self._ways.arguments(ran.given, ran.computed, of_results)
