"""What a forward pass keeps for its way back, and what that makes anew of it.

XLA does not keep what is quick to compute: it computes that where it is read. But a conditional and
a loop hand on what they are told to: of a GELU five arrays, say, that are sums and products of two.
So what is handed on is chosen here.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from lsam_jax.arrays import symbolic
from lsam_jax.engine import effects, jaxprs

QUICK = frozenset(
    (
        *("abs", "add", "add_any", "and", "bitcast_convert_type", "broadcast_in_dim", "ceil"),
        *("clamp", "conj", "convert_element_type", "copy", "div", "eq", "expand_dims", "floor"),
        *("ge", "gt", "imag", "integer_pow", "iota", "is_finite", "le", "lt", "max", "min", "mul"),
        *("name", "ne", "neg", "not", "one_minus_square", "or", "real", "reduce_precision"),
        *("reshape", "round", "select_n", "shift_left", "shift_right_arithmetic"),
        *("shift_right_logical", "sign", "slice", "split", "square", "squeeze", "stop_gradient"),
        *("sub", "transpose", "xor"),
    )
)
"""Primitives that compute as quickly as one reads what they make."""

LARGE, HARDLY_MORE = 2**16, 1 / 16
"""Bytes worth moving an equation behind a cut for, and the share by which more may cross then."""

COMPARISONS = frozenset(("eq", "ge", "gt", "is_finite", "le", "lt", "ne"))
"""Those that make a byte of many."""


def fewest(
    jaxpr: jex.Jaxpr, wanted: Sequence[Any], there: Collection[Any]
) -> tuple[list[Any], Callable[..., list[Any]], list[Any]]:
    """Which variables of a program to keep, so that quick equations make others of them.

    A variable gives way to those that it is made of wherever these are no larger, until none does.

    Args:
      jaxpr: the program.
      wanted: variables, or literals.
      there: variables that are kept anyway.

    Returns:
      The variables to be kept beside those, and a function that makes `wanted`, with the variables
      that it reads.
    """
    makers = {v: eqn for eqn in jaxpr.eqns if _is_quick(eqn) for v in eqn.outvars}
    kept = {v for v in wanted if jaxprs.is_variable(v) and v not in there}

    def instead_of(v: Any) -> set[Any]:
        """What would have to be kept in its place."""
        found: set[Any] = set()
        seen, left = {v}, [v]
        while left:
            for u in filter(jaxprs.is_variable, makers[left.pop()].invars):
                if u in seen or u in kept or u in there:
                    continue
                seen.add(u)
                (left.append if u in makers else found.add)(u)
        return found

    order = [v for eqn in jaxpr.eqns for v in eqn.outvars]
    before: set[Any] = set()
    while before != kept:
        before = set(kept)
        for v in reversed(order):  # what is made of others in front of these
            if v in kept and v in makers:
                found = instead_of(v)
                if sum(map(_bytes, found)) <= _bytes(v):
                    kept = kept - {v} | found
    quick = [eqn for eqn in jaxpr.eqns if _is_quick(eqn)]
    eqns = jaxprs.leading_to(wanted, quick, kept | {*there})
    reads = jaxprs.variables_read(eqns, wanted)
    make = jaxprs.as_function(eqns, reads, wanted, jaxpr)
    return [v for v in order if v in kept], make, reads


def moved_on(
    before: Sequence[Any], after: Sequence[Any], inputs: Collection[Any], results: Collection[Any]
) -> tuple[list[Any], list[Any]]:
    """The equations in front of a cut and behind it, of which quick ones have changed sides.

    Behind it go those that read nothing but what crosses it anyway or is at hand everywhere; and
    the one that makes of a product, say, the difference from its mean, as the product is kept in
    front of the cut anyway. Of several in a row XLA would have to compile kernels of their own.

    Args:
      before: those in front, which read nothing that those behind make.
      after: those behind.
      inputs: variables whose readers stay where they are.
      results: those whose makers do.
    """
    made = {v for eqn in before for v in eqn.outvars}
    reads = {id(eqn): set(filter(jaxprs.is_variable, eqn.invars)) for eqn in before}
    at_hand, large = set[Any](), set[Any]()
    quick = set()
    for eqn in before:
        if _is_quick(eqn) and reads[id(eqn)].isdisjoint(inputs):
            quick.add(id(eqn))
            if reads[id(eqn)] & made <= at_hand:
                at_hand.update(eqn.outvars)
            else:
                large.update(v for v in eqn.outvars if _bytes(v) >= LARGE)
    crossing = made.intersection(jaxprs.variables_read(after))
    staying = set(filter(jaxprs.is_variable, results))
    front: list[Any] = []
    behind = [*reversed(after)]
    for eqn in reversed(before):
        size = sum(_bytes(v) for v in crossing.intersection(eqn.outvars))
        new = (reads[id(eqn)] & made) - crossing - at_hand
        hardly_more = size >= LARGE and sum(map(_bytes, new)) <= (1 + HARDLY_MORE) * size
        goes = id(eqn) in quick and size > 0 and staying.isdisjoint(eqn.outvars)
        if goes and (not new or (hardly_more and new.isdisjoint(large))):
            behind.append(eqn)
            crossing.update(reads[id(eqn)] & made)
        else:
            front.append(eqn)
            staying |= reads[id(eqn)]
    return front[::-1], behind[::-1]


def lighter_scans(
    closed: jex.ClosedJaxpr, args: Sequence[Any], but: Collection[int] = ()
) -> jex.ClosedJaxpr:
    """The program whose scans, once differentiated, keep nothing that is quick to compute.

    By `jax.checkpoint` with a policy. A scan whose body is under a checkpoint already keeps what
    that says, and one with effects stays as it is.

    Args:
      closed: the program.
      args: arguments like its inputs.
      but: the `id` of equations that stay as they are.
    """
    heavy = {id(eqn) for eqn in closed.jaxpr.eqns if _keeps_all(eqn)} - {*but}
    if not heavy or effects.holds_references(closed.jaxpr):
        return closed
    return jaxprs.rewrite(closed, args, lambda eqn: _lighter(eqn) if id(eqn) in heavy else None)


def _keeps_all(eqn: Any) -> bool:
    if eqn.primitive.name != "scan" or eqn.effects or eqn.params.get("_split_transpose"):
        return False
    return not _holds_checkpoint(jaxprs.scan_of(eqn).body)


def _holds_checkpoint(jaxpr: jex.Jaxpr) -> bool:
    return any(
        eqn.primitive.name in jaxprs.CHECKPOINT_NAMES
        or any(map(_holds_checkpoint, jaxprs.nested_jaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def _lighter(eqn: Any) -> Callable[..., list[Any]]:
    scan, params = jaxprs.scan_of(eqn), eqn.params
    lighter = jax.checkpoint(scan.iterate, policy=_is_kept, prevent_cse=False)

    def run(*operands: Any) -> list[Any]:
        def each(carry: Sequence[Any], x: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            out = lighter(*operands[: scan.fixed], *carry, *x)
            return out[: scan.carried], out[scan.carried :]

        carry, over = ([operands[n] for n in some] for some in (scan.carry, scan.over))
        length = None if over else scan.length  # which may be a symbol
        carry, made = jax.lax.scan(each, carry, over, length, scan.reverse, params["unroll"])
        return [*carry, *made]

    return run


def _is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in QUICK - COMPARISONS


def _is_quick(eqn: Any) -> bool:
    return not eqn.effects and eqn.primitive.name in QUICK


def _bytes(v: Any) -> int:
    size = math.prod(map(symbolic.count, v.aval.shape))
    return size * getattr(v.aval.dtype, "itemsize", 8)
