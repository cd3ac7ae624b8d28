"""Scans over the layers of a network: which iteration reads which layers.

A scan reads the weights of its layers from arrays whose rows are layers, or that are joined, along
their first axis, from the arrays of layers. Seen as one equation it depends on all of them; here it
is said of each iteration.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex

from lsam_jax.arrays import symbolic
from lsam_jax.engine import jaxprs
from lsam_jax.engine.scan_plans import JOINS, KEEP_ROWS
from lsam_jax.engine.step_rules import Chosen

Rows = tuple[frozenset[int], ...]
"""For each row of an array, the layers that it is made of."""


class Loop(NamedTuple):
    """A scan over layers of which a part can be run.

    Attributes:
      scan: its parts.
      until: i64[length], in the order of iterations: the last position of a layer that may move and
        on which an iteration depends. It is the same in both passes if the first that moves stands
        behind it.
      begins: the last position in front of those of its own layers.
      rows: of each operand that it runs over and that no iteration reads whole, by variable.
    """

    scan: jaxprs.Scan
    until: np.ndarray
    begins: int
    rows: dict[Any, Rows]


def find(jaxpr: jex.Jaxpr, chosen: Chosen) -> list[Loop]:
    """The scans of a program, whose inputs are the leaves, with iterations of different layers."""
    position = np.where(chosen.candidates, chosen.position, -1)
    last: dict[Any, int] = dict(zip(jaxpr.invars, chosen.positions()))
    made_of: dict[Any, frozenset[int]] = {}
    rows: dict[Any, Rows] = {}
    for v, place in zip(jaxpr.invars, chosen.of_leaf):
        made_of[v] = frozenset(i for i in np.ravel(place).tolist() if i >= 0)
        if isinstance(place, tuple):
            rows[v] = tuple(frozenset([i]) for i in place)
    found = []
    for eqn in jaxpr.eqns:
        variables = [v for v in eqn.invars if jaxprs.is_variable(v)]
        if eqn.primitive.name == "scan" and not eqn.effects:
            loop = _loop(jaxprs.scan_of(eqn), last, rows, position)
            if loop is not None:
                found.append(loop)
        latest = max((last.get(v, -1) for v in variables), default=-1)
        last.update((v, latest) for v in eqn.outvars)
        if variables and eqn.outvars and all(v in made_of for v in variables):
            made = frozenset[int]().union(*(made_of[v] for v in variables))
            made_of.update((v, made) for v in eqn.outvars)
            if (of_rows := _rows(eqn, made_of, rows)) is not None:
                rows[eqn.outvars[0]] = of_rows
    return found


def _loop(
    scan: jaxprs.Scan, last: dict[Any, int], rows: dict[Any, Rows], position: np.ndarray
) -> Loop | None:
    variables = {n: v for n, v in enumerate(scan.eqn.invars) if jaxprs.is_variable(v)}
    whole = {v for n, v in variables.items() if n not in scan.over}
    by_row = {v: rows[v] for v in variables.values() if v in rows and v not in whole}
    if not by_row or not symbolic.is_known(scan.length):
        return None
    others = [v for v in variables.values() if v not in by_row]
    before = max((last.get(v, -1) for v in others), default=-1)
    own = {position[i] for of_rows in by_row.values() for layers in of_rows for i in layers}
    begins = min((p for p in own if p >= 0), default=0) - 1
    each = np.full(scan.length, before)
    for of_rows in by_row.values():
        places = [max((position[i] for i in layers), default=-1) for layers in of_rows]
        each = np.maximum(each, places[::-1] if scan.reverse else places)
    until = np.maximum.accumulate(each)
    return Loop(scan, until, begins, by_row) if until[0] < until[-1] else None


def _rows(eqn: Any, made_of: dict[Any, frozenset[int]], rows: dict[Any, Rows]) -> Rows | None:
    name = eqn.primitive.name
    shape = eqn.outvars[0].aval.shape
    if name in JOINS and 0 in (eqn.params.get("dimension"), eqn.params.get("axis")):
        if not all(jaxprs.is_variable(v) for v in eqn.invars):
            return None
        if not all(map(symbolic.is_known, shape[:1])):
            return None
        if name == "stack":
            return tuple(made_of[v] for v in eqn.invars)
        joined = (rows.get(v, (made_of[v],) * v.aval.shape[0]) for v in eqn.invars)
        return tuple(layers for of_rows in joined for layers in of_rows)
    variables = [v for v in eqn.invars if jaxprs.is_variable(v)]
    return rows.get(variables[0]) if name in KEEP_ROWS and len(variables) == 1 else None
