"""The segment of a ladder that is a scan over layers: loops whose length is known when they run.

The walks in the middle begin, or end, at the first iteration that a moved layer reaches, a number
that the step computes. What an iteration leaves for its way back is stacked, and the perturbed walk
overwrites its own part in place; so there is no conditional around it, and one body for all layers.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from lsam_jax.arrays.vectors import masked
from lsam_jax.engine import jaxprs
from lsam_jax.engine.both_ways import BothWays
from lsam_jax.engine.chain import Asked, Chain, Part, Segment, error_of
from lsam_jax.engine.conditionals import Conditionals
from lsam_jax.engine.gating import Gates
from lsam_jax.engine.jaxprs import Scan
from lsam_jax.engine.loops import Rows

Arrays = Sequence[Any]
Values = Mapping[Any, Any]


class Looped(NamedTuple):
    """A run of a scan.

    Attributes:
      made: the values of its results, by variable.
      operands: what it was given.
      carries: what each iteration was given to carry, stacked along the first axis.
      computed: what each computed, likewise.
    """

    made: dict[Any, Any]
    operands: list[Any]
    carries: list[Any]
    computed: list[Any]


class LoopRung:
    """A scan that is run forward, and differentiated, from an iteration on.

    Args:
      segment: the scan.
      chain: the program that it is a part of.
      values: of what it reads, to be traced with.
      conditionals: how to leave out what is not needed.
    """

    def __init__(self, segment: Segment, chain: Chain, values: Values, conditionals: Conditionals):
        assert segment.loop is not None
        self._loop, self._conditionals = segment.loop, conditionals
        scan = self._scan = segment.loop.scan
        self._selected = chain.selected
        self._reads = {v for v in segment.reads if v in chain.moving}
        first = self._at(self._read(values), 0)
        self._ways = _of_iteration(scan, chain, first)
        moving = self._ways.moving
        self._fixed, self._carry, self._over = (
            [n for n in moving if n in some] for some in (range(scan.fixed), scan.carry, scan.over)
        )

    def run(self, values: Values, part: Part | None = None, before: Looped | None = None) -> Looped:
        """See `Rung.run`."""
        scan, operands = self._scan, self._read(values)
        carry = [operands[n] for n in scan.carry]
        if part is None or before is None:
            carry, (carries, computed) = self._whole(operands, carry)
        else:
            begin = self._begin(part)
            there = jnp.minimum(begin, scan.length - 1)
            start = self._rows(before.carries, there)
            carry = [jnp.where(begin == 0, x, y) for x, y in zip(carry, start)]

            def again(s: Any, state: Any) -> Any:
                carry, (carries, computed) = state
                carry_on, new = self._iterate(self._at(operands, s, carry))
                return carry_on, (self._put(carries, carry, s), self._put(computed, new, s))

            state = carry, (before.carries, before.computed)
            carry, (carries, computed) = jax.lax.fori_loop(begin, scan.length, again, state)
            old = [before.made[v] for v in scan.eqn.outvars[: scan.carried]]
            carry = [jnp.where(begin == scan.length, x, y) for x, y in zip(old, carry)]
        return Looped(self._made(carry, operands, carries, computed), operands, carries, computed)

    def again(self, values: Values, part: Part, made: Values) -> dict[Any, Any]:
        """See `Rung.again`: all of it, as JAX does not differentiate a loop of unknown length."""
        del part, made
        eqn = self._scan.eqn
        return dict(zip(eqn.outvars, jaxprs.run_equation(eqn, self._read(values))))

    def back(self, ran: Looped, errors: Values, alike: Asked | None = None) -> dict[Any, Any]:
        """See `Rung.back`."""
        scan, ways = self._scan, self._ways
        on_devices = any(getattr(v.aval, "vma", None) for v in scan.eqn.invars)
        if alike is not None and not on_devices:  # else there may be collectives on the way
            return self.back_where_wanted(ran, errors, alike)

        def each(state: Any, x: Any) -> Any:
            of_carry, of_fixed = state
            carry, computed, over, of_collected = x
            given = [*ran.operands[: scan.fixed], *carry, *over]
            args = ways.arguments(given, computed, [*of_carry, *of_collected])
            found = dict(zip(ways.moving, jex.jaxpr_as_fun(ways.way_back(args))(*args)))
            of_fixed = [x + found[n] for n, x in zip(self._fixed, of_fixed)]
            return ([found[n] for n in self._carry], of_fixed), [found[n] for n in self._over]

        over = [ran.operands[n] for n in scan.over]
        of_carry, of_collected, of_fixed = self._errors(errors)
        (of_carry, of_fixed), of_over = jax.lax.scan(
            each,
            (of_carry, of_fixed),
            (ran.carries, ran.computed, over, of_collected),
            scan.length,
            not scan.reverse,
            scan.eqn.params["unroll"],
        )
        return self._by_variable([*of_fixed, *of_carry, *of_over])

    def back_where_wanted(self, ran: Looped, errors: Values, asked: Asked) -> dict[Any, Any]:
        """See `Rung.back_where_wanted`."""
        scan, ways, begin = self._scan, self._ways, self._begin(asked.part)
        invars, groups, wanted = scan.eqn.invars, asked.groups, asked.wanted
        over = [n for n in self._over if invars[n] in groups]
        kinds: dict[Any, list[int]] = {}  # by the layers of their rows, which are wanted together
        for n in over:
            kinds.setdefault(self._loop.rows.get(invars[n]), []).append(n)
        surely = {kind for kind, [n, *_] in kinds.items() if wanted.get(groups[invars[n]]) is True}
        rows = {kind: self._wanted_rows(kind) for kind in kinds if kind and kind not in surely}
        anyway = [*self._fixed, *self._carry]
        of_carry, of_collected, of_fixed = self._errors(errors)

        def each(j: Any, state: Any) -> Any:
            of_carry, of_fixed, of_over = state
            s = scan.length - 1 - j
            given = self._at(ran.operands, s, self._rows(ran.carries, s))
            of_results = [*of_carry, *self._rows(of_collected, s)]
            args = ways.arguments(given, self._rows(ran.computed, s), of_results)
            closed = ways.way_back(args)
            result = dict(zip(ways.moving, closed.jaxpr.outvars))
            by_row = {kind: [result[n] for n in those] for kind, those in kinds.items()}
            worth = asked.worth / scan.length
            gates = Gates(closed, [result[n] for n in anyway], by_row, worth)
            of_rows = dict(zip(rows, self._rows([*rows.values()], s)))
            is_wanted = {**dict.fromkeys(kinds, True), **of_rows}
            out, of_kinds = gates.run(args, is_wanted, self._conditionals)
            found = dict(zip(anyway, out))
            of_fixed = [x + found[n] for n, x in zip(self._fixed, of_fixed)]
            for kind, those in kinds.items():
                found.update(zip(those, of_kinds[kind]))
            of_over = self._put(of_over, [found[n] for n in over], s)
            return [found[n] for n in self._carry], of_fixed, of_over

        state = of_carry, of_fixed, [error_of(invars[n], {}) for n in over]
        of_carry, of_fixed, of_over = jax.lax.fori_loop(0, scan.length - begin, each, state)
        of_carry = [jnp.where(begin == 0, x, jnp.zeros_like(x)) for x in of_carry]
        found_over = dict(zip(over, of_over))
        found = self._by_variable([*of_fixed, *of_carry, *(found_over.get(n) for n in self._over)])
        chosen = {v: wanted.get(groups[v], True) for v in found if v in groups}
        whole = {v for v, some in chosen.items() if some is True or v in self._loop.rows}
        return {v: found[v] if v in whole else masked(chosen[v], found[v]) for v in chosen}

    def _whole(self, operands: Arrays, carry: Arrays) -> Any:
        scan = self._scan

        def each(carry: Arrays, x: Arrays) -> tuple[list[Any], tuple[Arrays, Arrays]]:
            carry_on, computed = self._iterate([*operands[: scan.fixed], *carry, *x])
            return carry_on, (carry, computed)

        over, unroll = [operands[n] for n in scan.over], scan.eqn.params["unroll"]
        return jax.lax.scan(each, carry, over, scan.length, scan.reverse, unroll)

    def _iterate(self, given: Arrays) -> tuple[list[Any], list[Any]]:
        """What an iteration hands on, and what it computes beside."""
        out, carried = self._ways.run(*given), self._scan.carried
        return out[:carried], out[carried:]

    def _begin(self, part: Part) -> Any:
        """The first iteration that differs, in their order: i32[]."""
        return jnp.sum(jnp.asarray(self._loop.until, jnp.int32) < part.first)

    def _place(self, s: Any) -> Any:
        return self._scan.length - 1 - s if self._scan.reverse else s

    def _rows(self, stacks: Arrays, s: Any) -> list[Any]:
        """Of each stack what belongs to iteration `s`, in their order."""
        row = partial(jax.lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
        place = self._place(s)
        return [row(x, place) for x in stacks]

    def _put(self, stacks: Arrays, new: Arrays, s: Any) -> list[Any]:
        update = partial(jax.lax.dynamic_update_index_in_dim, axis=0, allow_negative_indices=False)
        place = self._place(s)
        return [update(stack, x, place) for stack, x in zip(stacks, new)]

    def _at(self, operands: Arrays, s: Any, carry: Arrays | None = None) -> list[Any]:
        """What iteration `s` is given; by default it carries what the first does."""
        fixed, over = self._scan.fixed, self._scan.over.start
        carry = operands[fixed:over] if carry is None else carry
        return [*operands[:fixed], *carry, *self._rows(operands[over:], s)]

    def _read(self, values: Values) -> list[Any]:
        invars = self._scan.eqn.invars
        return [values[v] if jaxprs.is_variable(v) else jnp.asarray(v.val) for v in invars]

    def _made(
        self, carry: Arrays, operands: Arrays, carries: Arrays, computed: Arrays
    ) -> dict[Any, Any]:
        scan = self._scan

        def collected(carry: Arrays, computed: Arrays, over: Arrays) -> list[Any]:
            return self._ways.kept_results([*operands[: scan.fixed], *carry, *over], computed)

        over = [operands[n] for n in scan.over]
        return dict(zip(scan.eqn.outvars, [*carry, *jax.vmap(collected)(carries, computed, over)]))

    def _errors(self, errors: Values) -> tuple[list[Any], list[Any], list[Any]]:
        """Those of what is carried and collected in the end; none of what is fixed."""
        scan, outvars = self._scan, self._scan.eqn.outvars
        carry: list[Any] = []
        collected: list[Any] = []
        for n in self._ways.results:
            (carry if n < scan.carried else collected).append(error_of(outvars[n], errors))
        return carry, collected, [error_of(scan.eqn.invars[n], {}) for n in self._fixed]

    def _by_variable(self, found: Arrays) -> dict[Any, Any]:
        """Errors of what is moving, as those of the variables; None for what is not asked for."""
        out: dict[Any, Any] = {}
        for n, x in zip([*self._fixed, *self._carry, *self._over], found):
            v = self._scan.eqn.invars[n]
            if x is not None and jaxprs.is_variable(v) and v in self._reads:
                out[v] = out[v] + x if v in out else x
        return out

    def _wanted_rows(self, rows: Rows) -> jax.Array:
        """Whether one of the layers of each row is wanted: bool[length]."""
        places = range(len(self._selected))
        reads = np.array([[i in layers for i in places] for layers in rows])
        return jnp.any(reads & self._selected, axis=1)


def _of_iteration(scan: Scan, chain: Chain, operands: Arrays) -> BothWays:
    """One iteration, from the operands of the scan, with a row of each that it runs over."""
    eqn = scan.eqn
    carried = [jaxprs.is_inexact(v) for v in eqn.outvars[: scan.carried]]
    moving, wanted = chain.moving, chain.moving & chain.reaching

    def moves(n: int, v: Any) -> bool:
        return carried[n - scan.fixed] if n in scan.carry else jaxprs.is_variable(v) and v in moving

    return BothWays(
        scan.iterate,
        moving=[n for n, v in enumerate(eqn.invars) if moves(n, v)],
        results=[
            n
            for n, v in enumerate(eqn.outvars)
            if (carried[n] if n < scan.carried else v in wanted)
        ],
        handed_on=scan.carried,
        args=operands,
    )
