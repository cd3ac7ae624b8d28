"""A work-around for slow convolutions on XLA:CPU.

XLA:CPU hands a convolution to its fast library only in NHWC/HWIO/NHWC order. Outside of control
flow a layout pass brings every convolution into that order; inside a conditional or a loop it
does not run, and what is compiled is a scalar loop, 50 to 100 times slower. The convolutions
that compute gradients are not in that order. Transposing their operands, convolving in the
canonical order and transposing back is the same sum of the same products, so it is exact.

The gradient of a kernel is a convolution whose own kernel is as large as the images. The library
takes two to three times as long for it as for one part of the batch after the other, which it
finds in its caches. Summed part by part, it is the same sum in another order. Where one process
has several CPU devices, it is not cut: the batch may be shared out over them, and each part would
be a sum over all.

GPUs and TPUs lay convolutions out by themselves. Which it is, is decided where a program is
lowered: a host with a GPU may use its CPU, or compile for another machine.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.extend.core.primitives import cond_p, conv_general_dilated_p, scan_p, while_p

from lsam_jax.arrays import symbolic
from lsam_jax.devices.collectives import zeros_like_type
from lsam_jax.engine import jaxprs
from lsam_jax.engine.traced_loss import TracedLoss

WORTH_CUTTING, IMAGES, POSITIONS = 2**18, 8, 512
"""How many numbers both operands have where they are cut (fewer are in the caches anyway), and how
many images and positions a part has at least."""


def quick_on_cpu(fun: Callable[..., Any], losses: Iterable[TracedLoss]) -> Callable[..., Any]:
    """`fun`, a step of these losses, whose convolutions are quick where it is lowered for a CPU."""
    return quick(fun) if any(holds_convolution(x.closed.jaxpr) for x in losses) else fun


def quick(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` with quick convolutions for a CPU, also inside control flow, `jit` and `remat`."""

    def wrapped(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        out = jaxprs.evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), _rule)
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return wrapped


def holds_convolution(jaxpr: jex.Jaxpr) -> bool:
    """Whether there is a convolution among the equations, or inside one of them."""
    return any(
        eqn.primitive is conv_general_dilated_p
        or any(map(holds_convolution, jaxprs.nested_jaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def _rule(eqn: Any) -> Callable[..., list[Any]] | None:
    if eqn.primitive is conv_general_dilated_p:
        if _is_canonical(eqn) or eqn.params["out_sharding"] is not None:
            return None
        like = tuple(eqn.params.items()), eqn.outvars[0].aval, _parts(eqn) if one_device() else 1
        return lambda lhs, rhs: [_by_platform(*like, lhs, rhs)]
    if not any(map(holds_convolution, jaxprs.nested_jaxprs(eqn))):
        return None
    if eqn.primitive is cond_p and not eqn.params.get("branches_platforms"):
        branches = [_function(branch) for branch in eqn.params["branches"]]
        return lambda index, *operands: list(jax.lax.switch(index, branches, *operands))
    if eqn.primitive is scan_p:
        return partial(_scan, jaxprs.scan_of(eqn))
    if eqn.primitive is while_p:
        return partial(_while, eqn)
    if eqn.primitive.name in jaxprs.CHECKPOINT_NAMES:
        return partial(_checkpoint, eqn)
    if eqn.primitive.name in ("jit", "pjit"):
        return lambda *args: list(_function(eqn.params["jaxpr"])(*args))
    return None


def _function(closed: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda *args: tuple(jaxprs.evaluate(closed.jaxpr, closed.consts, args, _rule))


def _scan(scan: jaxprs.Scan, *operands: Any) -> list[Any]:
    body = _function(scan.eqn.params["jaxpr"])
    fixed, over = operands[: scan.fixed], operands[scan.over.start :]

    def each(carry: Any, x: Any) -> tuple[Any, Any]:
        out = body(*fixed, *carry, *x)
        return list(out[: scan.carried]), list(out[scan.carried :])

    carry = [operands[n] for n in scan.carry]
    unroll = scan.eqn.params["unroll"]
    carry, collected = jax.lax.scan(each, carry, list(over), scan.length, scan.reverse, unroll)
    return [*carry, *collected]


def _while(eqn: Any, *operands: Any) -> list[Any]:
    of_condition, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    condition, body = _function(eqn.params["cond_jaxpr"]), _function(eqn.params["body_jaxpr"])
    first, start = operands[:of_condition], of_condition + of_body
    second = operands[of_condition:start]
    return jax.lax.while_loop(
        lambda state: condition(*first, *state)[0],
        lambda state: list(body(*second, *state)),
        list(operands[start:]),
    )


def _checkpoint(eqn: Any, *args: Any) -> list[Any]:
    # The equation itself is kept, since it says whether it was differentiated already, on which
    # depends whether XLA may undo it.
    closed = jaxprs.rewrite(jex.ClosedJaxpr(eqn.params["jaxpr"], []), args, _rule)
    changed = (
        eqn.replace(params={**eqn.params, "jaxpr": closed.jaxpr}) if not closed.consts else eqn
    )
    return jaxprs.run_equation(changed, args)


@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)  # traced once for all that are alike
def _by_platform(params: Any, result: Any, parts: int, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    on_cpu = partial(_on_cpu, dict(params), result, parts)
    as_it_is = partial(conv_general_dilated_p.bind, **dict(params))
    return jax.lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=as_it_is)


def _on_cpu(
    params: dict[str, Any], result: Any, parts: int, lhs: jax.Array, rhs: jax.Array
) -> jax.Array:
    """The sum over the parts of what is summed over."""
    if parts == 1:
        return _canonical(params, lhs, rhs)
    numbers = params["dimension_numbers"]

    def cut(x: jax.Array, axis: int) -> jax.Array:
        shape = x.shape[:axis], (parts, x.shape[axis] // parts), x.shape[axis + 1 :]
        return jnp.moveaxis(x.reshape(sum(shape, ())), axis, 0)

    def add(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + _canonical(params, *part), None

    both = cut(lhs, numbers.lhs_spec[1]), cut(rhs, numbers.rhs_spec[1])
    return jax.lax.scan(add, zeros_like_type(result), both)[0]


def _parts(eqn: Any) -> int:
    """Into how many the gradient of a kernel is cut; 1 for what is none, is small or not known."""
    (lhs, rhs), result = (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    if not all(map(symbolic.is_known, (*lhs, *rhs, *result.shape))):
        return 1
    images, positions = lhs[numbers.lhs_spec[1]], prod(rhs[n] for n in numbers.rhs_spec[2:])
    in_groups = params["feature_group_count"] * params["batch_group_count"] > 1
    as_large = positions > prod(result.shape[n] for n in numbers.out_spec[2:])
    precise = result.dtype in (jnp.float32, jnp.float64)
    if in_groups or not as_large or not precise or min(prod(lhs), prod(rhs)) < WORTH_CUTTING:
        return 1
    most = images // max(IMAGES, POSITIONS // positions)
    return next((n for n in range(most, 1, -1) if images % n == 0), 1)


def one_device() -> bool:
    """Whether the CPU is one device of one process, over which nothing is shared out."""
    try:
        return jax.device_count("cpu") == 1
    except RuntimeError:  # JAX was told to use none
        return False


def _canonical(params: dict[str, Any], lhs: jax.Array, rhs: jax.Array) -> jax.Array:
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


def _is_canonical(eqn: Any) -> bool:
    return eqn.params["dimension_numbers"] == _canonical_numbers(eqn.invars[0].aval.ndim)


def _canonical_numbers(rank: int) -> jax.lax.ConvDimensionNumbers:
    batch_first = (0, rank - 1, *range(1, rank - 1))
    return jax.lax.ConvDimensionNumbers(
        lhs_spec=batch_first, rhs_spec=(rank - 1, rank - 2, *range(rank - 2)), out_spec=batch_first
    )
