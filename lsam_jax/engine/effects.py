"""What an equation does besides giving results: it writes to a reference, or is seen from outside.

Data alone says that two reads of a reference (`jax.new_ref`) may change places with the write
between them, and a message with the one before it. So where a program is cut, order counts too:

- effects that have an order keep it: behind one that runs late, all run late;
- a reference belongs to one side, from its making on, since no cut can hand one over.

References that the loss did not make are the caller's. They are treated as aux is: each pass
starts from what they held, and they are left with what the clean pass wrote. So each pass gets
references of its own, made outside of what is differentiated (as the caller's are), since JAX
differentiates what happens to others.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jax.extend import core as jex
from jax.ref import AbstractRef

UNORDERED = frozenset({"NamedAxisEffect", "DebugEffect", "IOEffect"})
"""Effects without an order: collectives, and callbacks that are not `ordered`."""

ON_REFERENCES = frozenset(
    {"ReadEffect", "WriteEffect", "AccumEffect", "InternalMutableArrayEffect"}
)
"""Effects on references, whose order `split` keeps for each reference apart."""


def is_reference(atom: Any) -> bool:
    """Whether a variable is a reference to an array that can be written."""
    return isinstance(atom.aval, AbstractRef)


def references(eqn: Any) -> list[Any]:
    """The references that an equation makes, reads or writes."""
    return [v for v in (*eqn.invars, *eqn.outvars) if is_reference(v)]


def holds_references(jaxpr: jex.Jaxpr) -> bool:
    """Whether a program makes, reads or writes references."""
    return any(map(is_reference, jaxpr.constvars)) or any(map(references, jaxpr.eqns))


def is_ordered(eqn: Any) -> bool:
    """Whether an equation has an effect that must keep its place among others of its kind."""
    return any(type(e).__name__ not in UNORDERED | ON_REFERENCES for e in eqn.effects)


def is_only_collective(eqn: Any) -> bool:
    """Whether the effects of an equation are no more than that it names an axis."""
    return all(type(e).__name__ == "NamedAxisEffect" for e in eqn.effects)


def split(eqns: Sequence[Any], sources: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """The equations that need none of `sources`, and the others; each in order."""
    tainted = set(sources)
    while True:
        before, after = _split_once(eqns, tainted)
        of_both = {v for e in before for v in references(e)} & {
            v for e in after for v in references(e)
        }
        if not of_both:
            return before, after
        tainted |= of_both


def _split_once(eqns: Sequence[Any], sources: set[Any]) -> tuple[list[Any], list[Any]]:
    tainted = set(sources)
    before, after = [], []
    seen_late = False
    for eqn in eqns:
        operands = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
        held = references(eqn) if eqn.effects else []
        ordered = bool(eqn.effects) and is_ordered(eqn)
        if any(v in tainted for v in (*operands, *held)) or (ordered and seen_late):
            after.append(eqn)
            tainted.update(eqn.outvars)
            tainted.update(held)
            seen_late |= ordered
        else:
            before.append(eqn)
    return before, after
