"""A work-around for slow convolutions on XLA:CPU.

XLA:CPU hands a convolution to its fast library only in NHWC/HWIO/NHWC order. Outside of control
flow a layout pass brings every convolution into that order; inside a conditional or a loop it
does not run, and what is compiled is a scalar loop, 50 to 100 times slower. The convolutions
that compute gradients are not in that order. Transposing their operands, convolving in the
canonical order and transposing back is the same sum of the same products, so it is exact.

The gradient of a kernel is a convolution whose own kernel is as large as the images. The library
takes two to three times as long for it as for one part of the batch after the other, which it
finds in its caches. Summed part by part, it is the same sum in another order. Where one process
has several CPU devices, it is cut inside `shard_map` only: elsewhere the batch may be shared out
over them, and each part would be a sum over all.

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
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lsam_jax.arrays import symbolic
from lsam_jax.devices.collectives import zeros_like_type
from lsam_jax.devices.shardings import explicit
from lsam_jax.engine import jaxprs
from lsam_jax.engine.traced_loss import TracedLoss

WORTH_CUTTING, IMAGES, POSITIONS = 2**18, 8, 512
"""How many numbers both operands have where they are cut (fewer are in the caches anyway), and how
many images and positions a part has at least."""

CONTROL_FLOW = (cond_p, scan_p, while_p)
CALLS = {"jit", "pjit", *jaxprs.CHECKPOINT_NAMES}


def quick_on_cpu(fun: Callable[..., Any], losses: Iterable[TracedLoss]) -> Callable[..., Any]:
    """`fun`, a step of these losses, whose convolutions are quick where it is lowered for a CPU."""
    return quick(fun) if any(holds_convolution(x.closed.jaxpr) for x in losses) else fun


def quick(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` with quick convolutions for a CPU, also inside control flow, `jit` and `remat`."""

    def wrapped(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        changed = jex.jaxpr_as_fun(_Quick().program(closed))
        return jax.tree.unflatten(jax.tree.structure(shape), changed(*jax.tree.leaves(args)))

    return wrapped


def holds_convolution(jaxpr: jex.Jaxpr) -> bool:
    """Whether there is a convolution among the equations, or inside one of them."""
    return any(
        eqn.primitive is conv_general_dilated_p
        or any(map(holds_convolution, jaxprs.nested_jaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


class _Quick:
    """Programs with quick convolutions in the place of others: nothing is traced again.

    Each program is changed once; each kind of convolution is traced once, by platform.
    """

    def __init__(self) -> None:
        self._one_device = one_device()
        self._programs: dict[int, Any] = {}
        self._kinds: dict[Any, Any] = {}
        self._which: list[Any] = []
        """The equation that says which platform it is; none is asked for before the first kind."""

    def program(self, program: Any) -> Any:
        """Jaxprs, closed or not, with quick convolutions; as it is, what needs no other."""
        if isinstance(program, tuple):
            changed = tuple(map(self.program, program))
            return changed if any(x is not y for x, y in zip(changed, program)) else program
        if not isinstance(program, jex.Jaxpr | jex.ClosedJaxpr):
            return program
        if id(program) not in self._programs:
            self._programs[id(program)] = self._changed(program)
        return self._programs[id(program)]

    def _changed(self, program: Any) -> Any:
        if not isinstance(program, jex.Jaxpr):  # from jax 0.12 on, a closed one is one, too
            inner = self.program(program.jaxpr)
            changed = jex.ClosedJaxpr(inner, program.consts)
            return program if inner is program.jaxpr else changed
        eqns = [self._equation(eqn) for eqn in program.eqns]
        changes = any(new is not eqn for new, eqn in zip(eqns, program.eqns))
        return program.replace(eqns=[*self._which, *eqns]) if changes else program

    def _equation(self, eqn: Any) -> Any:
        if eqn.primitive is conv_general_dilated_p:
            return eqn if _is_canonical(eqn) else self._convolution(eqn)
        opened = eqn.primitive in CONTROL_FLOW or eqn.primitive.name in CALLS
        if not opened or eqn.params.get("branches_platforms"):
            return eqn
        params = {name: self.program(x) for name, x in eqn.params.items()}
        changes = any(params[name] is not x for name, x in eqn.params.items())
        return eqn.replace(params=params) if changes else eqn

    def _convolution(self, eqn: Any) -> Any:
        like = tuple(eqn.params.items()), *(v.aval for v in (*eqn.invars, *eqn.outvars))
        if like not in self._kinds:
            parts = _parts(eqn) if self._one_device or _is_manual(eqn) else 1
            eqns = jax.make_jaxpr(partial(_by_platform, eqn, parts))().jaxpr.eqns
            self._kinds[like] = kind = eqns[-1]
            self._which = self._which or [x for x in eqns if kind.invars[0] in x.outvars]
        kind, given = self._kinds[like], [*self._which[0].outvars, *eqn.invars]
        return eqn.replace(primitive=kind.primitive, params=kind.params, invars=given)


def _by_platform(eqn: Any, parts: int) -> jax.Array:
    """A convolution like that of the equation, quick on a CPU."""
    on_cpu = partial(_on_cpu, eqn.params, eqn.outvars[0].aval, parts)
    as_it_is = partial(conv_general_dilated_p.bind, **eqn.params)
    operands = [zeros_like_type(v.aval) for v in eqn.invars]
    return jax.lax.platform_dependent(*operands, cpu=on_cpu, default=as_it_is)


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
    known = all(map(symbolic.is_known, (*lhs, *rhs, *result.shape)))
    if not known or any(explicit(v.aval) for v in (*eqn.invars, *eqn.outvars)):
        return 1
    images, positions = lhs[numbers.lhs_spec[1]], prod(rhs[n] for n in numbers.rhs_spec[2:])
    in_groups = params["feature_group_count"] * params["batch_group_count"] > 1
    as_large = positions > prod(result.shape[n] for n in numbers.out_spec[2:])
    precise = result.dtype in (jnp.float32, jnp.float64)
    if in_groups or not as_large or not precise or min(prod(lhs), prod(rhs)) < WORTH_CUTTING:
        return 1
    most = images // max(IMAGES, POSITIONS // positions)
    return next((n for n in range(most, 1, -1) if images % n == 0), 1)


def _is_manual(eqn: Any) -> bool:
    """Whether it stands in a `shard_map` over all devices, each of which has its own operands."""
    lies = eqn.params["out_sharding"]
    return lies is not None and all(kind == AxisType.Manual for kind in lies.mesh.axis_types)


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
    order = (out_batch, *out_space, out_feature)
    lies = params["out_sharding"]
    if lies is not None:
        lies = NamedSharding(lies.mesh, PartitionSpec(*(lies.spec[n] for n in order)))
    changed = {"dimension_numbers": _canonical_numbers(lhs.ndim), "out_sharding": lies}
    out = jax.lax.conv_general_dilated(
        jnp.transpose(lhs, (lhs_batch, *lhs_space, lhs_feature)),
        jnp.transpose(rhs, (*rhs_space, rhs_in, rhs_out)),
        **{**params, **changed},
    )
    return jnp.transpose(out, tuple(int(n) for n in np.argsort(order)))


def _is_canonical(eqn: Any) -> bool:
    return eqn.params["dimension_numbers"] == _canonical_numbers(eqn.invars[0].aval.ndim)


def _canonical_numbers(rank: int) -> jax.lax.ConvDimensionNumbers:
    batch_first = (0, rank - 1, *range(1, rank - 1))
    return jax.lax.ConvDimensionNumbers(
        lhs_spec=batch_first, rhs_spec=(rank - 1, rank - 2, *range(rank - 2)), out_spec=batch_first
    )
