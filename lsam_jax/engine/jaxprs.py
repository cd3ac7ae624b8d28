"""Pure surgery on jaxprs: evaluate slices, open nested programs, split by dependence.

A jaxpr is a list of equations in order of execution. What is here cuts that list into pieces
and turns each piece back into a Python function, through public JAX only. No equation is ever
changed, so neither is a result.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from lsam_jax.engine import effects

Rule = Callable[[Any], Callable[..., list[Any]] | None]
"""From an equation to the function that stands in for it, or None to run it as it is."""

CHECKPOINT_NAMES = frozenset({"checkpoint", "remat", "remat2"})  # by version of JAX


def is_variable(atom: Any) -> bool:
    """Whether an operand is a variable, not a literal."""
    return not isinstance(atom, jex.Literal)


def as_function(
    eqns: Sequence[Any], invars: Sequence[Any], outvars: Sequence[Any], like: jex.Jaxpr
) -> Callable[..., list[Any]]:
    """The function of `invars` that runs `eqns`, a part of `like`, and returns `outvars`."""
    part = like.replace(
        constvars=[],
        invars=list(invars),
        outvars=list(outvars),
        eqns=list(eqns),
        debug_info=like.debug_info.with_unknown_names(),
    )
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(part, []))


def variables_read(eqns: Iterable[Any], outvars: Iterable[Any] = ()) -> list[Any]:
    """The variables that `eqns` and `outvars` read but `eqns` do not make, in order of use."""
    made: set[Any] = set()
    read: dict[Any, None] = {}
    for eqn in eqns:
        read.update((v, None) for v in eqn.invars if is_variable(v) and v not in made)
        made.update(eqn.outvars)
    read.update((v, None) for v in outvars if is_variable(v) and v not in made)
    return list(read)


def evaluate(jaxpr: jex.Jaxpr, consts: Sequence[Any], args: Sequence[Any], rule: Rule) -> list[Any]:
    """Runs `jaxpr`, with the stand-ins of `rule` for the equations that it knows."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args]))
    needed = {v for eqn in jaxpr.eqns for v in eqn.invars if is_variable(v)}
    needed.update(v for v in jaxpr.outvars if is_variable(v))
    pending: list[Any] = []

    def read(atom: Any) -> Any:
        return env[atom] if is_variable(atom) else atom.val

    def run_pending() -> None:
        if pending:
            invars = variables_read(pending)
            outvars = [v for eqn in pending for v in eqn.outvars if v in needed]
            run = as_function(pending, invars, outvars, jaxpr)
            env.update(zip(outvars, run(*map(read, invars))))
            pending.clear()

    for eqn in jaxpr.eqns:
        stand_in = rule(eqn)
        if stand_in is None:
            pending.append(eqn)
        else:
            run_pending()
            env.update(zip(eqn.outvars, stand_in(*map(read, eqn.invars))))
    run_pending()
    return [read(v) for v in jaxpr.outvars]


def rewrite(closed: jex.ClosedJaxpr, args: Sequence[Any], rule: Rule) -> jex.ClosedJaxpr:
    """The program that `evaluate` runs, for arguments like `args`."""
    return jax.make_jaxpr(lambda *args: evaluate(closed.jaxpr, closed.consts, args, rule))(*args)


def prune(jaxpr: jex.Jaxpr) -> jex.Jaxpr:
    """The program without equations that nothing depends on."""
    return jaxpr.replace(eqns=leading_to(jaxpr.outvars, jaxpr.eqns))


def leading_to(
    outvars: Iterable[Any], eqns: Sequence[Any], there: Collection[Any] = ()
) -> list[Any]:
    """Those that `outvars` depend on, with these variables `there`, and those with effects."""
    needed = {v for v in outvars if is_variable(v) and v not in there}
    kept = []
    for eqn in reversed(eqns):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if is_variable(v) and v not in there)
    return kept[::-1]


def open_jit(eqn: Any) -> Callable[..., list[Any]] | None:
    """Rule: the equations of a nested `jit` stand where the call stood.

    A `jit` that fixes shardings is left whole, since they would be lost.
    """
    if eqn.primitive.name not in ("jit", "pjit"):
        return None
    shardings = [*eqn.params["in_shardings"], *eqn.params["out_shardings"]]
    if any(isinstance(s, jax.sharding.Sharding) for s in shardings):
        return None
    inner = eqn.params["jaxpr"]
    return lambda *args: evaluate(inner.jaxpr, inner.consts, args, open_nested)


def open_nested(eqn: Any) -> Callable[..., list[Any]] | None:
    """Rule: `open_jit`, also inside `jax.checkpoint`, which stays a checkpoint."""
    if eqn.primitive.name not in CHECKPOINT_NAMES:
        return open_jit(eqn)
    inner = eqn.params["jaxpr"]
    return checkpointed(eqn, lambda *args: evaluate(inner, [], args, open_nested))


def checkpointed(eqn: Any, fun: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`fun` under a `jax.checkpoint` of the same policy as that of the equation `eqn`."""
    return jax.checkpoint(fun, policy=eqn.params["policy"], prevent_cse=eqn.params["prevent_cse"])


def open_all(eqn: Any) -> Callable[..., list[Any]] | None:
    """Rule: opens `jit` and `jax.checkpoint` alike, for counting and not for running."""
    if eqn.primitive.name not in CHECKPOINT_NAMES:
        return open_jit(eqn)
    inner = eqn.params["jaxpr"]
    return lambda *args: evaluate(inner, [], args, open_all)


def split_checkpoints(
    closed: jex.ClosedJaxpr, args: Sequence[Any], sources: Iterable[Any]
) -> jex.ClosedJaxpr:
    """Splits each `jax.checkpoint` that depends on `sources` only in part into two.

    The first of the two does not depend on `sources` at all, so that `effects.split` finds more to
    share.
    """
    _, after = effects.split(closed.jaxpr.eqns, sources)
    tainted = {*sources, *(v for eqn in after for v in eqn.outvars)}
    if not any(eqn.primitive.name in CHECKPOINT_NAMES for eqn in after):
        return closed

    def rule(eqn: Any) -> Callable[..., list[Any]] | None:
        if eqn.primitive.name not in CHECKPOINT_NAMES:
            return None
        inner = eqn.params["jaxpr"]
        late = [
            v
            for v, outer in zip(inner.invars, eqn.invars)
            if is_variable(outer) and outer in tainted
        ]
        first, second = effects.split(inner.eqns, late)
        if not late or not first or effects.references(eqn):
            return None
        early = [v for v in inner.invars if v not in set(late)]
        made = {v for e in first for v in e.outvars}
        shared = [v for v in variables_read(second, inner.outvars) if v in made]
        rest = [v for v in variables_read(second, inner.outvars) if v not in made]
        run_first = checkpointed(eqn, as_function(first, early, shared, inner))
        run_second = checkpointed(eqn, as_function(second, [*shared, *rest], inner.outvars, inner))

        def run(*values: Any) -> list[Any]:
            env = dict(zip(inner.invars, values))
            hidden = run_first(*(env[v] for v in early))
            return run_second(*hidden, *(env[v] for v in rest))

        return run

    return rewrite(closed, args, rule)


def differentiable(eqns: Iterable[Any], depend: Collection[Any]) -> set[Any]:
    """Of the variables that depend on others, those through which errors come back to these.

    JAX would differentiate the rest as well, where a program is cut behind them, and what reads
    them may have no derivative: a loop of unknown length that starts from one, say.

    Args:
      eqns: those that make them.
      depend: the variables, those at which `eqns` begin among them.
    """
    found = {v for v in depend if is_inexact(v)}
    for eqn in eqns:
        if not eqn.effects:
            found.difference_update(set(eqn.outvars) - _errors_come_from(eqn, found))
    return found


def _errors_come_from(eqn: Any, moving: Collection[Any]) -> set[Any]:
    """The results of an equation through which errors come back to what is moving."""
    moves = [is_variable(v) and v in moving for v in eqn.invars]
    if not any(moves) or eqn.primitive.name == "stop_gradient":
        return set()
    if eqn.primitive.name not in CHECKPOINT_NAMES:
        return set(eqn.outvars)
    inner = eqn.params["jaxpr"]
    begin = [v for v, is_moving in zip(inner.invars, moves) if is_moving]
    inside = differentiable(inner.eqns, {*begin, *(v for e in inner.eqns for v in e.outvars)})
    results = zip(eqn.outvars, inner.outvars)
    return {v for v, found in results if is_variable(found) and found in inside}


def nested_jaxprs(eqn: Any) -> Iterable[jex.Jaxpr]:
    """The jaxprs among an equation's parameters."""
    for value in eqn.params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jex.Jaxpr):
                yield item


def run_equation(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Runs one equation on `values`, one for each of its operands."""
    env = {v: x for v, x in zip(eqn.invars, values) if is_variable(v)}
    like = next(iter(nested_jaxprs(eqn)))
    return as_function([eqn], list(env), eqn.outvars, like)(*env.values())


class Scan(NamedTuple):
    """The parts of a scan.

    Attributes:
      eqn: the equation.
      body: what it repeats.
      fixed: how many of its operands are the same in each iteration; they come first.
      carried: how many are handed on; they come next. It runs over the others.
    """

    eqn: Any
    body: jex.Jaxpr
    fixed: int
    carried: int

    @property
    def length(self) -> int:
        """How many iterations."""
        return self.eqn.params["length"]

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last to the first."""
        return self.eqn.params["reverse"]

    @property
    def carry(self) -> range:
        """The numbers of the operands that are handed on."""
        return range(self.fixed, self.fixed + self.carried)

    @property
    def over(self) -> range:
        """The numbers of those that it runs over."""
        return range(self.fixed + self.carried, len(self.eqn.invars))

    def iterate(self, *operands: Any) -> list[Any]:
        """One iteration, of a row of each that it runs over; nested calls of `jit` are opened."""
        consts = getattr(self.eqn.params["jaxpr"], "consts", [])
        return evaluate(self.body, consts, operands, open_nested)


def scan_of(eqn: Any) -> Scan:
    """The parts of an equation that is a scan."""
    body = next(iter(nested_jaxprs(eqn)))
    scanned, collected = _longer(eqn.invars, body.invars), _longer(eqn.outvars, body.outvars)
    carried = len(body.outvars) - len(collected)
    return Scan(eqn, body, len(body.invars) - len(scanned) - carried, carried)


def _longer(outside: Sequence[Any], inside: Sequence[Any]) -> list[int]:
    # What is scanned over, or collected, has one more axis than what the body sees of it.
    ranks = [(len(v.aval.shape), len(w.aval.shape)) for v, w in zip(outside, inside)]
    return [n for n, (out, in_) in enumerate(ranks) if out > in_]


def reaching(jaxpr: jex.Jaxpr, results: Iterable[Any]) -> set[Any]:
    """The variables on which these results depend, by data or by references."""
    found = {v for v in results if is_variable(v)}
    for eqn in reversed(jaxpr.eqns):
        if any(v in found for v in (*eqn.outvars, *effects.references(eqn))):
            found.update(v for v in eqn.invars if is_variable(v))
    return found


def is_inexact(v: Any) -> bool:
    """Whether a variable is of a type that can be differentiated."""
    return bool(jnp.issubdtype(v.aval.dtype, jnp.inexact))
