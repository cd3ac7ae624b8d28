"""What a step sends between devices, and what each computes and keeps: of compiled programs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("optimized")

DEVICES = 8
SHAPES = {"a": (6, 7), "b": (7, 8), "c": (8, 9), "d": (9, 10)}
SIZE = {name: rows * columns for name, (rows, columns) in SHAPES.items()}
SCALAR = 1
AXIS = "batch"
COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+)(?:-start)?\("
)


def parameters(scale=1):
    return {name: jnp.ones((r * scale, c * scale)) for name, (r, c) in SHAPES.items()}


def loss(params, x):
    for w in params.values():
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


def mesh():
    return Mesh(np.array(jax.devices()[:DEVICES]), (AXIS,))


def compiled(value_and_grad, tx, check=True):
    step = jax.shard_map(
        value_and_grad, mesh=mesh(), in_specs=(P(), P(), P(AXIS)), out_specs=P(), check_vma=check
    )
    params = parameters()
    return jax.jit(step).lower(params, tx.init(params), jnp.ones((16, 6))).compile().as_text()


def collectives(text):
    """The number of elements that each collective sends, by the computation that it stands in."""
    found, inside = {}, None
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            inside = start[1]
        if match := COLLECTIVE.search(line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [int(np.prod([int(d) for d in s.split(",") if d])) for s in shapes]
            found.setdefault(inside, []).append(sum(sizes))
    return sorted(map(sorted, found.values()))


def plain(params, state, x):
    """Data-parallel SGD by hand."""

    def mean(params):
        return jax.lax.pmean(loss(params, x), AXIS)

    return *jax.value_and_grad(mean)(params), state


GRADIENT = sum(SIZE.values())


def method(selection, k=None, **options):
    return lsam.layerwise_sam(k, 0.1, 0.8, selection=selection, axis_name=AXIS, **options)


def sent(tx, check):
    return collectives(compiled(lsam.value_and_grad(loss, tx), tx, check))


@pytest.mark.core
def test_sgd_sends_one_gradient():
    assert collectives(compiled(plain, method([]))) == [[GRADIENT + SCALAR]]


both = pytest.mark.parametrize("check", [pytest.param(True, marks=pytest.mark.core), False])


@both
def test_global_sync_adds_the_ascent_gradients_of_a_static_selection(check):
    """In one more collective; the scalars are the two losses."""
    ascent = SIZE["c"] + SIZE["d"] + SCALAR
    assert sent(method(["c", "d"]), check) == [[ascent, GRADIENT + SCALAR]]


@both
def test_global_sync_adds_those_behind_the_cut(check):
    """Without gates. Each segment has its own, which runs with it; the last always does."""
    behind = [SIZE["c"] + SIZE["d"] + SCALAR, GRADIENT + SCALAR]
    got = sent(method("high", 2, cuts=["b", "c"], gate=False), check)
    assert got == [[SIZE["a"]], [SIZE["b"]], sorted(behind)]


@both
def test_global_sync_adds_those_of_selected_layers(check):
    """With gates: each has its layer's collective, which runs with it."""
    gates = [[size] for size in SIZE.values()]
    got = sent(method("high", 2, cuts=["b", "c"], gate=True), check)
    assert got == sorted([*gates, [GRADIENT + 2 * SCALAR]])


@both
@pytest.mark.parametrize("gate", [True, False])
def test_replicas_add_the_norms(check, gate):
    """Radius, rise and sharpness too, in the one collective that there is."""
    static = GRADIENT + len(SHAPES) + 4 * SCALAR
    assert sent(method(["c", "d"], perturbation_sync="replica"), check) == [[static]]
    tx = method("high", 2, cuts=["b", "c"], gate=gate, perturbation_sync="replica")
    assert sent(tx, check) == [[static]]


@pytest.mark.core
def test_a_sharded_batch_under_jit_sends_no_more():
    """Where XLA places the collectives: it sends what global sync does."""
    tx = lsam.layerwise_sam(None, 0.1, 0.8, selection=["c", "d"])
    rows, same = NamedSharding(mesh(), P(AXIS)), NamedSharding(mesh(), P())
    params = parameters()
    step = jax.jit(lsam.value_and_grad(loss, tx), in_shardings=(same, same, rows))
    text = step.lower(params, tx.init(params), jnp.ones((16, 6))).compile().as_text()
    assert collectives(text) == [sorted([SIZE["c"] + SIZE["d"] + SCALAR, GRADIENT + SCALAR])]


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["global", "replica"])
def test_each_device_computes_and_keeps_its_share(sync):
    """Within 2 % of what one device does with an eighth of the batch, and 5 % of its memory.

    That is an eighth of what depends on the batch, and all that does not: norms, perturbation. What
    a gate sends has a buffer of its own: 10 % with `sync="global"`.
    """
    params, rows = parameters(8), 1024
    tx = method("high", 2, cuts=["b", "c"], perturbation_sync=sync)
    alone = lsam.layerwise_sam(2, 0.1, 0.8, cuts=["b", "c"])
    step = jax.shard_map(
        lsam.value_and_grad(loss, tx), mesh=mesh(), in_specs=(P(), P(), P(AXIS)), out_specs=P()
    )

    def of(step, rows):
        x = jax.ShapeDtypeStruct((rows, params["a"].shape[0]), jnp.float32)
        done = jax.jit(step).lower(params, alone.init(params), x).compile()
        return done.cost_analysis()["flops"], done.memory_analysis().temp_size_in_bytes

    flops, memory = of(step, rows)
    one_flops, one_memory = of(lsam.value_and_grad(loss, alone), rows // DEVICES)
    assert abs(flops / one_flops - 1) < 0.02
    assert abs(memory / one_memory - 1) < {"replica": 0.05, "global": 0.1}[sync]
