"""Splits a `scan` over layers, so that a program can be cut inside it.

A scan reads the weights of its layers from arrays whose rows are layers, or that are joined, along
their first axis, from the arrays of some (by `Layers.arrays`, or by the loss itself). Seen as one
equation it depends on all of them. Here it becomes several scans over parts of the layers, the
carry handed from one to the next, each part reading its own layers only. Nothing is computed
otherwise than before; a scan over anything else stays as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from lsam_jax.arrays import symbolic
from lsam_jax.devices import shardings
from lsam_jax.engine import jaxprs
from lsam_jax.engine.scan_plans import JOINS, KEEP_ROWS, Entries, Entry, Plan, Segment


def split(
    closed: jex.ClosedJaxpr, args: Sequence[Any], plan: Plan, sources: Iterable[Any] = ()
) -> jex.ClosedJaxpr:
    """The program with each scan over layers split as `plan` says.

    Args:
      closed: a program whose inputs are the leaves of the parameters.
      args: arguments like its inputs.
      plan: how to split.
      sources: those inputs on which something is to depend as late as possible.
    """
    names = {eqn.primitive.name for eqn in closed.jaxpr.eqns}
    runs_over_layers = names & JOINS or over_inputs(closed.jaxpr)
    if not runs_over_layers or not names & {"scan", *jaxprs.CHECKPOINT_NAMES}:
        return closed
    splitter = _Splitter(plan, made=closed.jaxpr.invars, late=sources)
    found = jaxprs.rewrite(closed, args, splitter)
    if not splitter.changed:
        return closed
    return jex.ClosedJaxpr(jaxprs.prune(found.jaxpr), found.consts)


def over_inputs(jaxpr: jex.Jaxpr) -> list[int]:
    """The inputs that a scan runs over as they are, or but for a change element by element."""
    source = {v: n for n, v in enumerate(jaxpr.invars)}
    found: dict[int, None] = {}
    for eqn in jaxpr.eqns:
        variables = [v for v in eqn.invars if jaxprs.is_variable(v)]
        if eqn.primitive.name in KEEP_ROWS and len(variables) == 1 and variables[0] in source:
            source[eqn.outvars[0]] = source[variables[0]]
        if eqn.primitive.name == "scan":
            runs_over = [eqn.invars[n] for n in jaxprs.scan_of(eqn).over]
            found.update(
                (source[v], None) for v in runs_over if jaxprs.is_variable(v) and v in source
            )
    return list(found)


class _Row(NamedTuple):
    """An array that is joined along its first axis.

    Attributes:
      pieces: the arrays that it is joined from.
      late: for each of them, whether it depends on the sources.
      then: what was done to it since, element by element.
    """

    pieces: tuple[Any, ...]
    late: tuple[bool, ...]
    then: tuple[Callable[[Any], Any], ...] = ()

    def entries(self) -> list[Entry]:
        """The piece that each entry comes from, and whether it depends on the sources."""
        pieces = enumerate(zip(self.pieces, self.late))
        return [Entry(n, late) for n, (x, late) in pieces for _ in range(x.shape[0])]

    def take(self, start: int, stop: int) -> Any:
        """The entries from `start` to `stop`."""
        parts, at = [], 0
        for x in self.pieces:
            size = x.shape[0]
            a, b = max(start - at, 0), min(stop - at, size)
            if a < b:
                parts.append(x if b - a == size else jax.lax.slice_in_dim(x, a, b))
            at += size
        out = parts[0] if len(parts) == 1 else jax.lax.concatenate(parts, 0)
        for fun in self.then:
            out = fun(out)
        return out


class _Splitter:
    """A rule for `jaxprs.evaluate`; it is asked equation by equation, in order."""

    def __init__(self, plan: Plan, made: Iterable[Any], late: Iterable[Any]) -> None:
        self.plan = plan
        self.made = set(made)  # variables made of parameters alone
        self.late = set(late)  # variables that depend on the sources
        self.rows: dict[Any, _Row] = {}
        self.changed = False

    def __call__(self, eqn: Any) -> Callable[..., list[Any]] | None:
        stand_in = self._stand_in(eqn)
        variables = [v for v in eqn.invars if jaxprs.is_variable(v)]
        if self._is_late(eqn.invars):
            self.late.update(eqn.outvars)
        if variables and all(v in self.made for v in variables):
            self.made.update(eqn.outvars)
        return stand_in

    def _is_late(self, atoms: Iterable[Any]) -> bool:
        return any(jaxprs.is_variable(v) and v in self.late for v in atoms)

    def _row(self, atom: Any) -> _Row | None:
        return self.rows.get(atom) if jaxprs.is_variable(atom) else None

    def _stand_in(self, eqn: Any) -> Callable[..., list[Any]] | None:
        name = eqn.primitive.name
        if name in JOINS and 0 in (eqn.params.get("dimension"), eqn.params.get("axis")):
            return self._join(eqn)
        if name == "scan":
            return self._scan(eqn)
        if not any(self._row(v) for v in eqn.invars):
            return None
        if name in KEEP_ROWS:
            return self._keep(eqn)
        if name in jaxprs.CHECKPOINT_NAMES:
            return self._checkpoint(eqn)
        return None

    def _join(self, eqn: Any) -> Callable[..., list[Any]] | None:
        # A scan over time may join something too: only parameters are layers, and their number is
        # known.
        if not all(jaxprs.is_variable(v) and v in self.made for v in eqn.invars):
            return None
        if not all(map(symbolic.is_known, eqn.outvars[0].aval.shape[:1])):
            return None

        def join(*values: Any) -> list[Any]:
            known = self.rows
            if eqn.primitive.name == "stack":
                values, known = tuple(jnp.expand_dims(x, 0) for x in values), {}
            # A stack of many is joined from stacks of some.
            rows = [
                row if (row := known.get(v)) and not row.then else _Row((x,), (v in self.late,))
                for v, x in zip(eqn.invars, values)
            ]
            self.rows[eqn.outvars[0]] = _Row(
                tuple(x for row in rows for x in row.pieces),
                tuple(late for row in rows for late in row.late),
            )
            return [jax.lax.concatenate(values, 0)]

        return join

    def _keep(self, eqn: Any) -> Callable[..., list[Any]] | None:
        (place, *more) = [n for n, v in enumerate(eqn.invars) if self._row(v)]
        others = [v for n, v in enumerate(eqn.invars) if n != place]
        if more or any(v.aval.shape for v in others) or self._is_late(others):
            return None

        def keep(*values: Any) -> list[Any]:
            def fun(x: Any) -> Any:
                operands = [x if n == place else value for n, value in enumerate(values)]
                return eqn.primitive.bind(*operands, **eqn.params)

            def of_part(x: Any) -> Any:
                # No axes along the first dimension: they need not divide the length of a part.
                return shardings.lay_by(x, (None, *eqn.outvars[0].aval.sharding.spec[1:]))

            row = self.rows[eqn.invars[place]]
            then = of_part if eqn.primitive.name == "reshard" else fun
            self.rows[eqn.outvars[0]] = row._replace(then=(*row.then, then))
            return [fun(values[place])]

        return keep

    def _scan(self, eqn: Any) -> Callable[..., list[Any]] | None:
        scan = jaxprs.scan_of(eqn)
        length, reverse = scan.length, scan.reverse
        fixed, carries, scanned = scan.fixed, scan.carried, scan.over
        collected = range(carries, len(eqn.outvars))
        rows = {n: row for n in scanned if (row := self._row(eqn.invars[n]))}
        variables = [n for n in scanned if n not in rows and jaxprs.is_variable(eqn.invars[n])]
        whole = [n for n in variables if eqn.invars[n] in self.made]
        if not (rows or whole) or not symbolic.is_known(length):
            return None
        others = [v for n, v in enumerate(eqn.invars) if n not in rows and n not in whole]
        begun = self._is_late(others)
        reads = [row.entries() for row in rows.values()]
        reads += [[Entry(0, self._is_late([eqn.invars[n]]))] * length for n in whole]
        # From here on, iterations are in the order in which they run.
        entries: Entries = list(zip(*reads))
        entries = entries[::-1] if reverse else entries
        segments = self.plan(entries, begun)
        if len(segments) == 1 and not segments[0].inline:
            return None
        self.changed = True
        first = next((t for t, reads in enumerate(entries) if any(e.late for e in reads)), length)
        late = [begun or first < stop for _, stop, _ in segments]

        def inline(*operands: Any) -> list[Any]:
            inner = [jax.lax.squeeze(x, [0]) if n in scanned else x for n, x in enumerate(operands)]
            out = scan.iterate(*inner)
            return [*out[:carries], *(jnp.expand_dims(x, 0) for x in out[carries:])]

        def part(carry: Sequence[Any], values: Sequence[Any], where: Segment) -> list[Any]:
            a, b, _ = where
            if reverse:
                a, b = length - b, length - a
            xs = [
                rows[n].take(a, b) if n in rows else jax.lax.slice_in_dim(values[n], a, b)
                for n in scanned
            ]
            operands = (*values[:fixed], *carry, *xs)
            if where.inline:
                return inline(*operands)
            params = {**eqn.params, "length": b - a, "unroll": min(eqn.params["unroll"], b - a)}
            return list(eqn.primitive.bind(*operands, **params))

        def run(*values: Any) -> list[Any]:
            carry: Sequence[Any] = values[fixed : fixed + carries]
            made: list[list[Any]] = []
            for where in segments:
                out = part(carry, values, where)
                carry = out[:carries]
                made.append(out[carries:])
            in_place = slice(None, None, -1) if reverse else slice(None)
            whole = []
            for n, pieces in zip(collected, zip(*made)):
                self.rows[eqn.outvars[n]] = _Row(pieces[in_place], tuple(late)[in_place])
                whole.append(jax.lax.concatenate(pieces[in_place], 0))
            return [*carry, *whole]

        return run

    def _checkpoint(self, eqn: Any) -> Callable[..., list[Any]] | None:
        inner = eqn.params["jaxpr"]
        if not any(e.primitive.name == "scan" for e in inner.eqns):
            return None

        def run(*values: Any) -> list[Any]:
            # What is joined goes in as its pieces, and is joined inside.
            rows = [self._row(v) for v in eqn.invars]
            counts = [len(row.pieces) if row else 1 for row in rows]
            flat = [p for row, x in zip(rows, values) for p in (row.pieces if row else [x])]

            def fun(*flat: Any) -> list[Any]:
                left = iter(flat)
                groups = [tuple(next(left) for _ in range(count)) for count in counts]
                nested = _Splitter(self.plan, (), ())
                args = []
                for v, outer, row, group in zip(inner.invars, eqn.invars, rows, groups):
                    if row:
                        nested.rows[v] = row._replace(pieces=group)
                    if self._is_late([outer]):
                        nested.late.add(v)
                    if jaxprs.is_variable(outer) and outer in self.made:
                        nested.made.add(v)
                    args.append(
                        row._replace(pieces=group).take(0, v.aval.shape[0]) if row else group[0]
                    )
                out = jaxprs.evaluate(inner, [], args, nested)
                self.changed |= nested.changed
                return out

            closed = jax.make_jaxpr(fun)(*flat)
            pruned = jex.ClosedJaxpr(jaxprs.prune(closed.jaxpr), closed.consts)
            return jaxprs.checkpointed(eqn, jex.jaxpr_as_fun(pruned))(*flat)

        return run
