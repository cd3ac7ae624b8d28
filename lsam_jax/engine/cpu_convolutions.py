"""A work-around for slow convolutions inside conditionals on XLA:CPU.

XLA:CPU hands a convolution to its fast library only in NHWC/HWIO/NHWC order. Outside of control
flow a layout pass brings every convolution into that order; inside a conditional or a loop it
does not run, and what is compiled is a scalar loop, 50 to 100 times slower. The convolutions
that compute gradients are not in that order. Transposing their operands, convolving in the
canonical order and transposing back is the same sum of the same products, so it is exact. GPUs
and TPUs lay convolutions out by themselves. Which it is, is decided where a program is lowered: a
host with a GPU may use its CPU, or compile for another machine.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.extend.core.primitives import cond_p, conv_general_dilated_p

from lsam_jax.engine import jaxprs


def in_conditional(jaxpr: jex.Jaxpr) -> jaxprs.Transformation:
    """What is done to parts of a program that run inside a conditional."""
    return canonical_on_cpu if holds_convolution(jaxpr) else jaxprs.as_it_is


def canonical_on_cpu(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun`, whose convolutions are in canonical order where it is lowered for a CPU."""

    def by_platform(*args: Any) -> Any:
        return jax.lax.platform_dependent(*args, cpu=canonical_convolutions(fun), default=fun)

    return by_platform


def canonical_convolutions(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` with every convolution in canonical order, also inside `jit`, `cond` and `remat`."""

    def wrapped(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        out = jaxprs.evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), _rule)
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return wrapped


def _rule(eqn: Any) -> Callable[..., list[Any]] | None:
    if eqn.primitive is conv_general_dilated_p:
        if _is_canonical(eqn) or eqn.params["out_sharding"] is not None:
            return None
        return lambda lhs, rhs: [_convolve(lhs, rhs, eqn.params)]
    if not any(map(holds_convolution, jaxprs.nested_jaxprs(eqn))):
        return None
    if eqn.primitive is cond_p:
        if eqn.params.get("branches_platforms"):  # by `canonical_on_cpu`
            return None
        branches = [_branch(branch) for branch in eqn.params["branches"]]
        return lambda index, *operands: list(jax.lax.switch(index, branches, *operands))
    if eqn.primitive.name in jaxprs.CHECKPOINT_NAMES:
        return lambda *args: _in_checkpoint(eqn, args)
    if eqn.primitive.name in ("jit", "pjit"):
        inner = eqn.params["jaxpr"]
        return lambda *args: jaxprs.evaluate(inner.jaxpr, inner.consts, args, _rule)
    return None


def _branch(closed: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda *args: tuple(jaxprs.evaluate(closed.jaxpr, closed.consts, args, _rule))


def _in_checkpoint(eqn: Any, args: tuple[Any, ...]) -> list[Any]:
    # The equation itself is kept, since it says whether it was differentiated already, on which
    # depends whether XLA may undo it.
    closed = jaxprs.rewrite(jex.ClosedJaxpr(eqn.params["jaxpr"], []), args, _rule)
    changed = (
        eqn.replace(params={**eqn.params, "jaxpr": closed.jaxpr}) if not closed.consts else eqn
    )
    return jaxprs.run_equation(changed, args)


def holds_convolution(jaxpr: jex.Jaxpr) -> bool:
    """Whether there is a convolution among the equations, or inside one of them."""
    return any(
        eqn.primitive is conv_general_dilated_p
        or any(map(holds_convolution, jaxprs.nested_jaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def _is_canonical(eqn: Any) -> bool:
    return eqn.params["dimension_numbers"] == _canonical_numbers(eqn.invars[0].aval.ndim)


def _canonical_numbers(rank: int) -> jax.lax.ConvDimensionNumbers:
    batch_first = (0, rank - 1, *range(1, rank - 1))
    return jax.lax.ConvDimensionNumbers(
        lhs_spec=batch_first, rhs_spec=(rank - 1, rank - 2, *range(rank - 2)), out_spec=batch_first
    )


def _convolve(lhs: jax.Array, rhs: jax.Array, params: dict[str, Any]) -> jax.Array:
    numbers = params["dimension_numbers"]
    lhs_batch, lhs_feature, *lhs_space = numbers.lhs_spec
    rhs_out, rhs_in, *rhs_space = numbers.rhs_spec
    out_batch, out_feature, *out_space = numbers.out_spec
    out = jax.lax.conv_general_dilated(
        jnp.transpose(lhs, (lhs_batch, *lhs_space, lhs_feature)),
        jnp.transpose(rhs, (*rhs_space, rhs_in, rhs_out)),
        **{**params, "dimension_numbers": _canonical_numbers(lhs.ndim)},
    )
    order = np.argsort((out_batch, *out_space, out_feature))
    return jnp.transpose(out, tuple(int(i) for i in order))
