"""An ascent that is stale in front of a layer and fresh from it on.

The oracle: two `jax.grad` of the whole network a step, at weights moved by hand: the front along
what the last step gave, then the back along its gradient there.
"""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import conditionals, flops
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from staged import dense
from textbook import named, norm, relative_error, unnamed
from training import EXACT

import lsam_jax as lsam

STEPS, LR, RHO = 20, 0.05, 0.3
FRONT = ("a/w", "a/b")  # of the network of `contract`; behind it stand norm/scale and z/w


def scaled(length, d):
    """`length d / ||d||`, and nothing where d is 0."""
    size = norm(*d.values())
    return {p: length * x / size if size else 0 * x for p, x in d.items()}


def of_sam(w, d):
    return scaled(RHO, d)


def of_plain(w, d):
    return {p: RHO * x for p, x in d.items()}


def of_asam(w, d):
    T = {p: 1.0 if p.endswith("/b") else np.abs(w[p]) + 0.01 for p in d}
    size = norm(*(T[p] * x for p, x in d.items()))
    return {p: RHO * T[p] ** 2 * x / size if size else 0 * x for p, x in d.items()}


ARRAYS = ("a/w", "a/b", "norm/scale", "z/w")
KERNELS = ("a/w", "z/w")
METHODS = {  # how it is made, the layer, the arrays that move, how far, the decay
    "sam": (lsam.sam, {}, "norm/scale", ARRAYS, of_sam, 0.6),
    "asam": (lsam.asam, {}, "norm/scale", ARRAYS, of_asam, 0.0),
    "layerwise_sam": (
        lsam.layerwise_sam,
        {"k": None, "selection": list(KERNELS), "normalize": True},
        "z/w",
        KERNELS,
        of_sam,
        0.0,
    ),
    "layerwise_sam, as in the paper": (
        lsam.layerwise_sam,
        {"k": None, "selection": "all"},
        "z/w",
        KERNELS,
        of_plain,
        0.3,
    ),
}
FACES = ("value_and_grad", "value_fn", "shard_map")
GRADIENT = jax.jit(jax.value_and_grad(contract.loss))


def method(name, fresh=None, rho=RHO, **more):
    make, options, at, _, _, decay = METHODS[name]
    return lsam.with_parts(
        make(rho=rho, **options, **more), ascent=lsam.stale(decay, fresh=fresh or at)
    )


def gradient(w, batch):
    loss, h = GRADIENT(unnamed(w, contract.parameters()), *batch)
    return float(loss), named(h)


def eps_of(name, w, d, batch):
    """The perturbation: the front along d, the back along its gradient with the front moved."""
    _, _, _, moving, move, _ = METHODS[name]
    d = {p: d[p] for p in moving}
    front = {p: e for p, e in move(w, d).items() if p in FRONT}
    _, g = gradient({**w, **{p: w[p] + e for p, e in front.items()}}, batch)
    back = {p: x for p, x in d.items() if p not in FRONT}
    g = scaled(norm(*back.values()), {p: g[p] for p in back})
    return {**move(w, {**d, **g}), **front}


def textbook(name, batches):
    """Loss, direction, <h, eps> and weights of each step."""
    decay, w = METHODS[name][-1], named(contract.parameters())
    d = {p: 0 * x for p, x in w.items()}
    for batch in batches:
        eps = eps_of(name, w, d, batch)
        loss, h = gradient({**w, **{p: w[p] + e for p, e in eps.items()}}, batch)
        d = {p: decay * d[p] + (1 - decay) * h[p] for p in w}
        w = {p: w[p] - LR * h[p] for p in w}
        yield loss, h, sum(float(np.sum(h[p] * e)) for p, e in eps.items()), w


def step_of(name, face):
    """`(params, state, batch) -> (loss or None, direction, state)`."""
    tx = method(name, **({"axis_name": "batch"} if face == "shard_map" else {}))
    both = lsam.value_and_grad(contract.loss, tx)
    if face == "value_and_grad":
        return jax.jit(lambda p, s, b: both(p, s, *b))
    if face == "shard_map":
        mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
        specs = {"in_specs": (P(), P(), P("batch")), "out_specs": P()}
        return jax.jit(jax.shard_map(lambda p, s, b: both(p, s, *b), mesh=mesh, **specs))
    chained = optax.chain(tx, optax.scale(2.0))

    @jax.jit
    def update(params, state, batch):
        value_fn = lambda p: contract.loss(p, *batch)  # noqa: E731
        state = (state, optax.ScaleState())
        twice, state = chained.update(params, state, params, value_fn=value_fn)
        return None, jax.tree.map(lambda x: x / 2, twice), state[0]

    return update


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", METHODS)
def test_like_the_textbook(name, face):
    batches = [contract.batch(i % 5, size=8) for i in range(STEPS)]
    step, params = step_of(name, face), contract.parameters()
    state, moved = method(name).init(params), 0
    for count, (batch, want) in enumerate(zip(batches, textbook(name, batches))):
        loss, direction, state = step(params, state, batch)
        assert loss is None or abs(loss - want[0]) <= EXACT * abs(want[0])
        got = named(direction)
        for path in got:
            assert relative_error(got[path], want[1][path]) <= EXACT, (count, path)
        assert np.allclose(state.rise, want[2], rtol=1e-6, atol=1e-9)
        assert np.allclose(state.sharpness, want[2], rtol=1e-6, atol=1e-9)
        moved += want[2] != 0
        params = unnamed(want[3], contract.parameters())
    assert int(state.count) == STEPS
    assert moved == STEPS - 1  # all but the first


@pytest.mark.usefixtures("x64")
def test_parts_of_a_batch_have_fresh_gradients_of_their_own():
    """d is common to them; the direction is the mean of theirs."""
    params, batch = contract.parameters(), contract.batch(1, size=8)
    w = named(params)
    d = {p: np.asarray(np.random.default_rng(5).normal(size=x.shape)) for p, x in w.items()}
    tx = method("sam")
    state = tx.init(params)
    state = state._replace(memory=state.memory._replace(ascent=unnamed(d, params)))
    step = jax.jit(lsam.value_and_grad(contract.loss, tx, m=4, batch_argnums=(1, 2)))
    found = []
    for rows in (slice(0, 4), slice(4, 8)):
        part = tuple(x[rows] for x in batch)
        eps = eps_of("sam", w, d, part)
        found.append(gradient({p: w[p] + eps[p] for p in w}, part)[1])
    got = named(step(params, state, *batch)[1])
    for path in w:
        assert relative_error(got[path], (found[0][path] + found[1][path]) / 2) <= EXACT


@pytest.mark.usefixtures("x64")
def test_from_the_first_layer_on_it_is_sam():
    """Once there is a d, which says nothing then but that something moves."""
    params, batch = contract.parameters(), contract.batch(2)
    tx = method("sam", fresh="a/w")
    step = jax.jit(lsam.value_and_grad(contract.loss, tx))
    _, direction, state = step(params, tx.init(params), *batch)
    w = named(params)
    g = gradient(w, batch)[1]
    for path, x in named(direction).items():
        assert relative_error(x, g[path]) <= EXACT
    eps = scaled(RHO, g)
    h = gradient({p: w[p] + eps[p] for p in w}, batch)[1]
    for _ in range(2):
        _, direction, state = step(params, state, *batch)
        for path, x in named(direction).items():
            assert relative_error(x, h[path]) <= EXACT


def test_where_nothing_behind_moves_it_is_stale():
    net = dense(depth=3, width=8, batch=4)
    front = ["layer3/w", "layer2/w"]
    method = lsam.layerwise_sam(None, RHO, selection=front)
    by = [
        lsam.with_parts(method, ascent=ascent)
        for ascent in (lsam.stale(fresh="layer1/w"), lsam.stale(rest=1))
    ]
    states = [tx.init(net.params) for tx in by]
    steps = [jax.jit(lsam.value_and_grad(net.whole, tx)) for tx in by]
    for _ in range(3):
        got, want = (f(net.params, s, net.batch) for f, s in zip(steps, states))
        for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            assert np.allclose(x, y, rtol=1e-6, atol=1e-7)
        states = [got[2], want[2]]


@pytest.mark.parametrize("selection", ["all", "none"])
def test_no_radius_or_no_layer_is_the_plain_gradient(selection):
    net = dense(depth=3, width=8, batch=4)
    method = lsam.layerwise_sam(None, 0.0 if selection == "all" else RHO, selection=selection)
    tx = lsam.with_parts(method, ascent=lsam.stale(fresh="layer1/w"))
    step, state = jax.jit(lsam.value_and_grad(net.whole, tx)), tx.init(net.params)
    want = jax.jit(jax.value_and_grad(net.whole))(net.params, net.batch)
    for _ in range(3):
        loss, direction, state = step(net.params, state, net.batch)
        for x, y in zip(*map(jax.tree.leaves, ((loss, direction), want)), strict=True):
            assert np.allclose(x, y, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_steps_outside_of_a_window_are_plain_and_remembered():
    net = dense(depth=3, width=8, batch=4)
    always = lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale(fresh="layer2/w"))
    tx = lsam.with_parts(always, when=lsam.every(2))
    step, state = jax.jit(lsam.value_and_grad(net.whole, tx)), tx.init(net.params)
    plain = jax.grad(net.whole)(net.params, net.batch)
    for count in range(3):
        before = state
        _, direction, state = step(net.params, state, net.batch)
        want = plain
        if count == 2:  # along the plain gradient of the step between
            _, want, _ = lsam.value_and_grad(net.whole, always)(net.params, before, net.batch)
        for x, y in zip(*map(jax.tree.leaves, (direction, want)), strict=True):
            assert np.allclose(x, y, rtol=1e-5, atol=1e-6)
    assert state.rise > 0


@pytest.mark.parametrize("start", ["layer4", "layer2", "a_head"])
def test_a_step_costs_a_gradient_and_that_of_the_suffix(start):
    net = dense(depth=5, width=64, batch=2048)
    tx = lsam.with_parts(
        lsam.layerwise_sam(None, RHO, selection="all"), ascent=lsam.stale(fresh=f"{start}/w")
    )
    step, state = lsam.value_and_grad(net.whole, tx), tx.init(net.params)
    x, labels = net.batch
    hidden = jax.eval_shape(lambda p: net.before(start, p, x), net.params)
    names = list(net.stages)[list(net.stages).index(start) :]

    def suffix(kernels, hidden):
        params = {n: {**p, "w": kernels.get(n, p["w"])} for n, p in net.params.items()}
        return net.from_stage(start)(params, hidden, labels)

    plain = flops(jax.value_and_grad(net.whole), net.params, net.batch)
    late = flops(jax.value_and_grad(suffix), {n: net.params[n]["w"] for n in names}, hidden)
    found = flops(step, net.params, state, net.batch)
    assert abs(found / (plain + late) - 1) <= 0.02
    program = jax.make_jaxpr(step)(net.params, state, net.batch)
    assert not list(conditionals(program.jaxpr))


@pytest.mark.usefixtures("x64")
def test_slices_of_stacked_arrays_stand_where_the_scan_comes_to_them():
    rng = np.random.default_rng(0)
    blocks, head, x = (jnp.asarray(rng.normal(size=s)) for s in ((4, 3, 3), (3, 2), (5, 3)))

    def scanned(p, x):
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["blocks"])
        return jnp.mean((h @ p["head"]) ** 2)

    def unrolled(p, x):
        for n in range(4):
            x = jnp.tanh(x @ p[f"{n}"])
        return jnp.mean((x @ p["head"]) ** 2)

    apart = {**{f"{n}": blocks[n] for n in range(4)}, "head": head}
    found = []
    for loss, params, layers, fresh in (
        (scanned, {"blocks": blocks, "head": head}, lsam.stacked("blocks"), "blocks/2"),
        (unrolled, apart, "kernel", "2"),
    ):
        tx = lsam.with_parts(lsam.sam(RHO, layers=layers), ascent=lsam.stale(fresh=fresh))
        step, state = jax.jit(lsam.value_and_grad(loss, tx)), tx.init(params)
        for _ in range(2):
            _, direction, state = step(params, state, x)
        found.append(direction)
    for n in range(4):
        assert relative_error(found[0]["blocks"][n], found[1][f"{n}"]) <= EXACT


def test_aux_is_that_of_the_perturbed_weights():
    params = {"a": jnp.asarray(3.0), "b": jnp.asarray(4.0)}

    def loss_fn(p):
        return p["a"] * p["b"], p

    tx = lsam.with_parts(lsam.sam(2.5), ascent=lsam.stale(fresh="b"))
    step, state = lsam.value_and_grad(loss_fn, tx, has_aux=True), tx.init(params)
    _, _, state = step(params, state)
    (loss, there), _, _ = step(params, state)
    assert {n: float(x) for n, x in there.items()} == {"a": 5.0, "b": 5.5}
    assert loss == 27.5
