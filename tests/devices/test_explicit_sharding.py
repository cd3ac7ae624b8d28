"""Weights whose types say where they lie: every method does on several devices what it does on one.

The network has a layer spread over the data axis (FSDP), one split along the model axis (tensor
parallel) and one that is both. A mesh of two devices along one axis makes it FSDP alone, along the
other tensor-parallel alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import METHODS, Method
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

import lsam_jax as lsam

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("x64")]

STEPS, RHO, LR = 3, 0.1, 0.05
FSDP, TENSOR, BOTH = (2, 1), (1, 2), (2, 2)
SPECS = {
    "a": P("data"),
    "b": {"w": P(None, "model")},
    "norm": {"scale": P("model")},
    "z": P("model", "data"),
}


def parameters():
    rng = np.random.default_rng(0)
    shapes = {
        "a": (4, 4),
        "b": {"w": (4, 8)},
        "norm": {"scale": (8,)},
        "z": (8, 2),
    }
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s)), shapes, is_leaf=is_shape)


def is_shape(x):
    return isinstance(x, tuple)


def batch(i):
    rng = np.random.default_rng(100 + i)
    return jnp.asarray(rng.normal(size=(8, 4))), jnp.asarray(rng.normal(size=(8, 2)))


def lay(x, *spec):
    """`x` along these axes; nothing on one device."""
    return x if jax.sharding.get_abstract_mesh().empty else reshard(x, P(*spec))


def outputs(p, x, y):
    h = jnp.tanh(x @ lay(p["a"]))
    h = jnp.tanh(h @ p["b"]["w"]) * p["norm"]["scale"]
    one = jax.sharding.get_abstract_mesh().empty
    along = None if one else P("data")
    return jnp.einsum("bi,ij->bj", h, lay(p["z"], "model"), out_sharding=along)


def losses(p, x, y):
    return jnp.sum((outputs(p, x, y) - y) ** 2, 1)


LOSSES = {
    "plain": lambda p, x, y: jnp.mean(losses(p, x, y)),
    "split": lsam.split_loss(outputs, lambda out, x, y: jnp.mean(jnp.sum((out - y) ** 2, 1))),
    "per_sample": lsam.per_sample(losses, argnums=(1, 2)),
}
TABLE = {
    **METHODS,
    "no_gates": Method(lsam.layerwise_sam, {"k": 1, "gate": False}),
    "gates_3_cuts": Method(lsam.layerwise_sam, {"k": 1, "gate": True, "cuts": 3}),
    "arrays_1_cut": Method(
        lsam.layerwise_sam, {"k": 2, "cuts": 1, "layers": "array", "normalize": "layer"}
    ),
    "named": Method(lsam.layerwise_sam, {"k": None, "selection": ["b/w"], "alpha": 0.5}),
}


CHAINED = ("layerwise_sam", "ae_sam", "sl_sam")  # also by value_fn, which has the same engine


def mesh_of(shape, names=("data", "model"), kinds=(AxisType.Explicit,) * 2):
    devices = jax.devices()[: np.prod(shape)]
    return jax.make_mesh(shape, names, axis_types=kinds, devices=devices)


def place(tree, specs, mesh):
    def put(spec, x):
        return jax.device_put(x, NamedSharding(mesh, P(*spec, *[None] * (x.ndim - len(spec)))))

    return jax.tree.map(put, specs, tree, is_leaf=lambda x: isinstance(x, P))


def make_step(tx, face, loss):
    """`(params, (sam_state, opt_state), x, y) -> (params, state)` by one of the faces."""
    value_and_grad = lsam.value_and_grad(loss, tx)
    sgd = optax.sgd(LR, momentum=0.9)
    chain = optax.chain(tx, sgd)

    def step(params, state, x, y):
        if face == "value_and_grad":
            _, grads, sam = value_and_grad(params, state[0], x, y)
            updates, opt = sgd.update(grads, state[1], params)
            return optax.apply_updates(params, updates), (sam, opt)
        of = loss.at(x, y) if hasattr(loss, "at") else lambda p: loss(p, x, y)
        plain = jax.tree.map(jnp.zeros_like, params) if face == "value_fn" else jax.grad(of)(params)
        how = {face: of if face == "value_fn" else jax.grad(of)}
        updates, state = chain.update(plain, state, params, **how)
        return optax.apply_updates(params, updates), state

    return jax.jit(step), chain.init


def types(tree):
    return jax.tree.map(jax.typeof, tree)


def trained(tx, face, loss, params, batches, compilations=None):
    step, init = make_step(tx, face, loss)
    state = init(params)
    before = types((params, state))
    for i, (x, y) in enumerate(batches):
        params, state = step(params, state, x, y)
        assert types((params, state)) == before
        if i == 0 and compilations is not None:
            jax.block_until_ready(params)
            compiled = compilations.count
    if compilations is not None:
        assert compilations.count == compiled
    return params, state


def assert_equal(got, want):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        tolerance = 1e-9 if y.dtype == np.float64 else 1e-5
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


def on_mesh(mesh, x, *spec):
    return place(x, jax.tree.map(lambda _: P(*spec), x), mesh)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_every_method_does_what_it_does_on_one_device(name, compilations):
    """Parameters, state, their types; nothing is compiled for a second step."""
    method = TABLE[name]
    loss, tx = LOSSES[method.loss], method(RHO)
    batches = [batch(i) for i in range(STEPS)]
    one = trained(tx, "value_and_grad", loss, parameters(), batches)
    chained = ("grad_fn", TENSOR) if method.grad_fn else ("value_fn", FSDP)
    more = [("value_fn", FSDP)] if name in CHAINED else []
    for face, shape in [("value_and_grad", BOTH), chained, *more]:
        mesh = mesh_of(shape)
        with jax.set_mesh(mesh):
            params = place(parameters(), SPECS, mesh)
            there = [on_mesh(mesh, xy, "data") for xy in batches]
            got = trained(tx, face, loss, params, there, compilations)
        assert_equal(got[0], one[0])
        assert_equal(got[1][0].norms, one[1][0].norms)
        assert_equal(got[1][0].memory, one[1][0].memory)


@pytest.mark.parametrize("gate", [True, False])
def test_equals_two_gradients_by_hand(gate):
    """The layer of largest norm, chosen at run time, on four devices."""
    mesh = mesh_of(BOTH)
    tx = lsam.layerwise_sam(1, RHO, gate=gate, cuts=2)
    params, loss, (x, y) = parameters(), LOSSES["plain"], batch(0)
    state = tx.init(params)._replace(norms=jnp.asarray([1.0, 3.0, 2.0], jnp.float32))
    gradient = jax.jit(jax.grad(loss))
    g = gradient(params, x, y)
    moved = {**params, "b": {**params["b"], "w": params["b"]["w"] + RHO * g["b"]["w"]}}
    want = gradient(moved, x, y)
    with jax.set_mesh(mesh):
        _, got, _ = jax.jit(lsam.value_and_grad(loss, tx))(
            place(params, SPECS, mesh), on_mesh(mesh, state), *on_mesh(mesh, (x, y), "data")
        )
    assert_equal(got, want)


STACKS = {
    "fsdp": {"up": P(None, "data"), "down": P(None, None, "data")},
    "depth": {"up": P("data"), "down": P("data")},
}


def scanned(p, x, y):
    def block(h, w):
        return h + jnp.tanh(h @ lay(w["up"])) @ lay(w["down"]), None

    blocks = p["blocks"]
    if not jax.sharding.get_abstract_mesh().empty:  # a scan runs over what is whole
        blocks = jax.tree.map(
            lambda w: reshard(w, P(None, *jax.typeof(w).sharding.spec[1:])), blocks
        )
    return jnp.mean((jax.lax.scan(block, x @ p["in"], blocks)[0] @ p["out"] - y) ** 2)


STACKED = {
    "layerwise": lambda layers: lsam.layerwise_sam(2, RHO, layers=layers, cuts=3),
    "momentum": lambda layers: lsam.momentum_sam(RHO, layers=layers),
    "stale": lambda layers: lsam.with_parts(
        lsam.layerwise_sam(2, RHO, layers=layers), ascent=lsam.stale()
    ),
    "f_sam": lambda layers: lsam.f_sam(RHO, layers=layers),
    "zsharp": lambda layers: lsam.zsharp(RHO, 0.3, layers=layers),
    "dynamic": lambda layers: lsam.sparse_sam(RHO, dynamic=True, every=2, layers=layers),
    "drawn": lambda layers: lsam.sl_sam(RHO, 0.5, layers=layers),
}


def stacked_parameters():
    rng = np.random.default_rng(1)
    blocks = {n: jnp.asarray(rng.normal(size=(2, 4, 4))) / 4 for n in ("up", "down")}
    ends = {
        n: jnp.asarray(rng.normal(size=s)) / 2 for n, s in {"in": (4, 4), "out": (4, 2)}.items()
    }
    return {**ends, "blocks": blocks}


@functools.cache
def stacked_on_one_device(name):
    tx, batches = STACKED[name](lsam.stacked("blocks")), [batch(i) for i in range(STEPS)]
    return trained(tx, "value_and_grad", scanned, stacked_parameters(), batches)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("name", STACKED)
def test_stacked_layers(name, kind):
    """Slices of arrays that are spread within the layers, or over them."""
    params, specs = stacked_parameters(), {"in": P(), "out": P(), "blocks": STACKS[kind]}
    tx = STACKED[name](lsam.stacked("blocks"))
    batches = [batch(i) for i in range(STEPS)]
    mesh = mesh_of(FSDP)
    with jax.set_mesh(mesh):
        there = [on_mesh(mesh, xy, "data") for xy in batches]
        got = trained(tx, "value_and_grad", scanned, place(params, specs, mesh), there)
    assert_equal(got, stacked_on_one_device(name))
