"""The traced loss cut into a chain: segments of equations, in the order of the network."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex

from lsam_jax.devices.collectives import zeros_like_type
from lsam_jax.engine import effects, jaxprs, kept, loops, scan_plans, scans
from lsam_jax.engine.loops import Loop
from lsam_jax.engine.step_rules import Chosen


class Segment(NamedTuple):
    """A part of a program, and between which layers it stands.

    Attributes:
      eqns: its equations; one, if it is a loop.
      start: what it reads differs between the passes only if a layer in front of this position
        moves.
      end: what it makes differs only if a layer in front of this one does; None if it is run in
        both passes, whatever moves.
      loop: how it is run in part, or None.
      reads: the variables that it reads and does not make.
      makes: those that it makes, and other segments or the results read.
    """

    eqns: Sequence[Any]
    start: int
    end: int | None
    loop: Loop | None = None
    reads: Sequence[Any] = ()
    makes: Sequence[Any] = ()


class Chain(NamedTuple):
    """A program in segments, each of which reads what those in front of it make.

    Attributes:
      closed: the whole.
      segments: its parts; the first depends on no array that may move.
      moving: the variables through which the parameters can be differentiated.
      reaching: the variables on which the results that are differentiated depend.
      selected: bool[L], the layers that move.
    """

    closed: jex.ClosedJaxpr
    segments: Sequence[Segment]
    moving: frozenset[Any]
    reaching: frozenset[Any]
    selected: Any


class Part(NamedTuple):
    """The part of a network that a walk visits: what depends on layers that move.

    Attributes:
      first: i32[], the position of the first of these.
      reached: whether anything does in front of a place, bool[], by place.
    """

    first: Any
    reached: Mapping[int, Any]


class Asked(NamedTuple):
    """The errors that a walk back looks for.

    Attributes:
      part: what it visits.
      groups: the group of each of them, by variable.
      wanted: whether they are wanted, bool[] or True, by group.
      worth: the operations that a conditional has to save.
    """

    part: Part
    groups: Mapping[Any, Any]
    wanted: Mapping[Any, Any]
    worth: float


def chain(
    closed: jex.ClosedJaxpr,
    leaves: Sequence[Any],
    chosen: Chosen,
    places: Sequence[int],
    aux_is_differentiated: bool,
) -> Chain:
    """Cuts a loss that holds no references.

    Args:
      closed: the program, from the parameters' leaves to the loss and the leaves of aux.
      leaves: the parameters.
      chosen: which layers may move, and their positions.
      places: the positions at which to cut, ascending; the first is that of the first layer that
        may move. No cut is made inside a scan over layers, which is run in part.
      aux_is_differentiated: whether aux counts among what is differentiated, besides the loss.
    """
    position = chosen.positions()
    found = loops.find(closed.jaxpr, chosen)
    places = [p for p in places if not any(loop.until[0] < p <= loop.until[-1] for loop in found)]
    late = [[p >= place for p in position] for place in places]
    for behind in late:
        if not found:
            sources = _of(closed.jaxpr.invars, behind)
            closed = scans.split(closed, leaves, scan_plans.where_it_differs, sources)
        sources = _of(closed.jaxpr.invars, behind)
        closed = jaxprs.split_checkpoints(closed, leaves, sources)
    in_part = [id(loop.scan.eqn) for loop in loops.find(closed.jaxpr, chosen)]
    closed = kept.lighter_scans(closed, leaves, but=in_part)
    jaxpr = closed.jaxpr
    in_loops = {id(loop.scan.eqn): loop for loop in loops.find(jaxpr, chosen)}
    parts: list[Segment] = []
    rest = list(jaxpr.eqns)
    may_move = _of(jaxpr.invars, [p >= 0 for p in position])
    for n, behind in enumerate(late):
        before, rest = effects.split(rest, _of(jaxpr.invars, behind))
        if not in_loops:  # in front of one stands what is run in both passes, whatever moves
            before, rest = kept.moved_on(before, rest, may_move, jaxpr.outvars)
        parts += _around_loops(before, places[max(n - 1, 0)], places[n], in_loops)
    parts += _around_loops(rest, places[-1], None, in_loops)
    _, depend = effects.split(jaxpr.eqns, jaxpr.invars)
    made = (v for eqn in depend for v in eqn.outvars)
    moving = jaxprs.differentiable(depend, {*jaxpr.invars, *made})
    differentiated = jaxpr.outvars if aux_is_differentiated else jaxpr.outvars[:1]
    reaching = frozenset(jaxprs.reaching(jaxpr, differentiated))
    segments = _joined(parts, jaxpr)
    return Chain(closed, segments, frozenset(moving), reaching, chosen.selected)


def _around_loops(
    eqns: Sequence[Any], start: int, end: int | None, in_loops: dict[int, Loop]
) -> list[Segment]:
    """Equations between two places: what no loop makes, the loop, what depends on it."""
    parts = []
    rest = list(eqns)
    for eqn in eqns:
        loop = in_loops.get(id(eqn))
        if loop is None or not any(e is eqn for e in rest):
            continue
        before, after = effects.split([e for e in rest if e is not eqn], eqn.outvars)
        # In front stand the joined weights of all iterations, which are quicker made than chosen.
        parts += [Segment(before, start, None), Segment([eqn], start, end, loop)]
        rest, start = after, end if end is not None else int(loop.until[-1]) + 1
    return [*parts, Segment(rest, start, end)]


def _joined(parts: Sequence[Segment], jaxpr: jex.Jaxpr) -> list[Segment]:
    reads = [jaxprs.variables_read(part.eqns) for part in parts]
    read = {v for vs in reads for v in vs} | set(filter(jaxprs.is_variable, jaxpr.outvars))
    return [
        part._replace(reads=vs, makes=[v for eqn in part.eqns for v in eqn.outvars if v in read])
        for part, vs in zip(parts, reads)
    ]


def _of(variables: Sequence[Any], chosen: Sequence[bool]) -> list[Any]:
    return [v for v, is_chosen in zip(variables, chosen) if is_chosen]


def error_of(v: Any, errors: Mapping[Any, Any]) -> Any:
    """The error of a variable, by variable: zeros if there is none."""
    return errors[v] if v in errors else zeros_like_type(v.aval)
