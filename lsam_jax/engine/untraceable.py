"""How it shows that a loss cannot be traced before it is differentiated.

Two kinds train by `jax.grad` all the same. A rule of a `custom_vjp` or `custom_jvp` that closes
over a value which the loss computes: it is run when the traced loss is differentiated, and the
value belongs to a trace that is over. And, outside of `jit`, Python or NumPy at work on numbers
that a trace does not have.
"""

import gc
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from lsam_jax.engine import effects, jaxprs
from lsam_jax.engine.traced_loss import TracedLoss

CLOSES_OVER = (
    "A custom_vjp or custom_jvp in it closes over a value that the loss computes: pass that value "
    "to it as an argument, and to its backward rule as a residual."
)
NEEDS_NUMBERS = (
    "Use jnp.where or jax.lax.cond for Python's if, and jax.numpy for NumPy, on what it computes."
)


class UntraceableError(Exception):
    """Raised instead of whatever a loss raised while it was traced: without a trace it might not.

    Its text says why, and what to change in the loss.
    """


SIGNS = (
    UntraceableError,
    jax.errors.UnexpectedTracerError,
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""What is raised for such a loss, by tracing it or, where its rules fail, by the engine."""


def way_out(error: BaseException) -> str:
    """What to change in a loss that gave this sign."""
    if isinstance(error, UntraceableError):
        return str(error)
    leaked = isinstance(error, jax.errors.UnexpectedTracerError)
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return f"{CLOSES_OVER if leaked else NEEDS_NUMBERS} ({reason})"


def watched(loss_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The loss, except that it raises `UntraceableError`.

    Any error may be a sign: formatting an array or slicing by one raises no error of JAX's own.
    """

    def run(params: Any) -> Any:
        try:
            return loss_fn(params)
        except Exception as error:
            raise UntraceableError(way_out(error)) from error

    return run


def check_rules(program: TracedLoss, leaves: Sequence[Any], loss_fn: Any) -> None:
    """Raises if the traced loss holds a rule that cannot run any more.

    Under `jit` JAX would take the value of a trace that is over for a constant, and fail when the
    step is run. And where a loss has effects, those in front of a rule that fails would take place
    twice: such a loss is differentiated once without being run.
    """
    rules = list(_rules(program.closed.jaxpr))
    held = _tracers(rule for _, rule in rules)
    if held:
        alive = {id(x) for x in _tracers([loss_fn, program.closed.consts])}
        dead = [x for x in held if id(x) not in alive]
        if dead:
            name = next((name for name, rule in rules if _holds(rule, dead)), "")
            raise UntraceableError(f"{CLOSES_OVER} ({name})")
    if rules and not effects.is_only_collective(program.closed):
        jax.eval_shape(jax.grad(program.run, has_aux=True), list(leaves))


def _rules(jaxpr: Any) -> Iterator[tuple[str, Any]]:
    """What says how something is differentiated: what it is a rule of, and the rule."""
    for eqn in jaxpr.eqns:
        nested = list(jaxprs.nested_jaxprs(eqn))
        if eqn.primitive.name.startswith("custom_"):
            info = nested[0].debug_info if nested else None
            name = str(getattr(info, "func_src_info", ""))
            not_rules = (jex.Jaxpr, jex.ClosedJaxpr, int, tuple)
            yield from ((name, x) for x in eqn.params.values() if not isinstance(x, not_rules))
        for inner in nested:
            yield from _rules(inner)


def _holds(rule: Any, values: Sequence[Any]) -> bool:
    return any(x is value for x in _tracers([rule]) for value in values)


def _tracers(roots: Iterable[Any]) -> list[Any]:
    """The tracers that these objects hold in closures, attributes and containers."""
    found: list[Any] = []
    seen: set[int] = set()
    todo: list[Any] = [list(roots)]
    alive = todo[:]  # so that no two have the same id
    while todo:
        here = todo.pop()
        if id(here) in seen or isinstance(here, types.ModuleType | type | str):
            continue
        if type(here).__name__.endswith("Trace"):  # JAX's own record of all that it has traced
            continue
        seen.add(id(here))
        alive.append(here)
        if isinstance(here, jax.core.Tracer):
            found.append(here)
            continue
        closed_over = gc.get_referents(here)
        if isinstance(here, types.FunctionType):
            closed_over = [x for x in closed_over if x is not here.__globals__]
        todo.extend(closed_over)
    return found
