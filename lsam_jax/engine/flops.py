"""Counted cost of equations: floating-point operations."""

import math
from collections.abc import Iterable
from typing import Any

from lsam_jax.arrays import symbolic
from lsam_jax.engine import jaxprs


def flops(eqn: Any) -> float:
    """Floating-point operations of an equation: exact for what costs, an estimate for the rest.

    Products of matrices and convolutions count two per multiply-add; loops count their body
    times their length, conditionals their dearest branch; everything else counts one per element
    of its largest operand or result.
    """
    params = eqn.params
    match eqn.primitive.name:
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            lhs = eqn.invars[0].aval.shape
            return 2.0 * _size(eqn.outvars[0]) * _product(lhs[i] for i in contracted)
        case "conv_general_dilated":
            numbers, kernel = params["dimension_numbers"], eqn.invars[1].aval.shape
            window = _product(kernel[i] for i in numbers.rhs_spec[1:])
            # A dilated operand is mostly zeros, which nobody multiplies by.
            return 2.0 * _size(eqn.outvars[0]) * window / math.prod(params["lhs_dilation"])
        case "scan":
            return symbolic.count(params["length"]) * total_flops(params["jaxpr"].jaxpr)
        case "cond":
            return max(total_flops(branch.jaxpr) for branch in params["branches"])
    nested = list(jaxprs.nested_jaxprs(eqn))
    if nested:
        return sum(map(total_flops, nested))
    atoms = [*eqn.invars, *eqn.outvars]
    return float(max(map(_size, atoms), default=0))


def total_flops(jaxpr: Any) -> float:
    """Those of all equations of a jaxpr."""
    return sum(map(flops, jaxpr.eqns))


def _size(atom: Any) -> int:
    return _product(getattr(atom.aval, "shape", ()))


def _product(sizes: Iterable[Any]) -> int:
    return math.prod(map(symbolic.count, sizes))
