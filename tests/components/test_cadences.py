"""Windows of steps: inside the method, outside the plain gradient, which is all that they cost.

The oracle: hand-written `jax.grad` calls, the second of them in the steps that a list names.
"""

import zlib

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from refusals import NAN, ids, refused
from textbook import named, norm, relative_error, unnamed
from training import EXACT

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

STEPS, LR, RHO = 20, 0.05, 0.3
KERNELS = ("a/w", "z/w")
GRADIENT = jax.jit(jax.value_and_grad(contract.loss))


def drawn(p, seed):
    """The draw of a step is a function of its purpose, the seed and the step's number."""

    def due(count):
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"cadence"))
        key = jax.random.fold_in(key, count)
        return jax.random.uniform(key, (), jnp.float32) < (p(count) if callable(p) else p)

    return due


RISING = optax.linear_schedule(0.0, 1.0, STEPS)
CADENCES = {
    "every": (lambda: lsam.every(3), lambda t: t % 3 == 0),
    "between": (lambda: lsam.between(4, 11), lambda t: 4 <= t < 11),
    "late": (lambda: lsam.between(0.7, steps=STEPS), lambda t: t >= 14),
    "early": (lambda: lsam.between(0, 0.3, steps=STEPS), lambda t: t < 6),
    "bernoulli": (lambda: lsam.bernoulli(0.4, seed=3), drawn(0.4, 3)),
    "schedule": (lambda: lsam.bernoulli(RISING, seed=2), drawn(RISING, 2)),
}


def scaled(g, paths):
    size = norm(*(g[p] for p in paths))
    return {p: RHO * g[p] / size for p in paths}


def of_sam(w, g, norms):
    return scaled(g, list(w))


def of_layerwise(w, g, norms):
    chosen = max(KERNELS, key=lambda path: (norms[path], KERNELS.index(path)))
    return scaled(g, [chosen])


def of_asam(w, g, norms):
    T = {p: 1.0 if p.endswith("/b") else np.abs(x) + 0.01 for p, x in w.items()}
    size = norm(*(T[p] * g[p] for p in w))
    return {p: RHO * T[p] ** 2 * g[p] / size for p in w}


METHODS = {
    "sam": (lsam.sam, {}, of_sam, 1.0),
    "generalized_sam": (lsam.generalized_sam, {"alpha": 0.7}, of_sam, 0.7),
    "layerwise_sam": (lsam.layerwise_sam, {"k": 1, "normalize": True}, of_layerwise, 1.0),
    "asam": (lsam.asam, {}, of_asam, 1.0),
}


def textbook(name, due, batches):
    """Loss, direction and weights of each step."""
    _, _, move, alpha = METHODS[name]
    params = contract.parameters()
    w, norms = named(params), dict.fromkeys(KERNELS, 0.0)
    for count, batch in enumerate(batches):
        loss, g = GRADIENT(unnamed(w, params), *batch)
        d = h = named(g)
        if due(count):
            moved = {**w, **{p: w[p] + eps for p, eps in move(w, d, norms).items()}}
            h = named(GRADIENT(unnamed(moved, params), *batch)[1])
            h = {p: (1 - alpha) * d[p] + alpha * h[p] for p in w}
        norms = {p: np.float32(norm(h[p])) for p in w}
        w = {p: w[p] - LR * h[p] for p in w}
        yield loss, h, w


def mesh():
    return Mesh(np.array(jax.devices()[:4]), ("batch",))


def step_of(tx, face):
    """`(params, state, batch) -> (loss or None, direction, state)`."""
    both = lsam.value_and_grad(contract.loss, tx)
    if face in ("value_and_grad", "jit"):
        return jax.jit(lambda p, s, b: both(p, s, *b))
    if face == "shard_map":
        specs = {"in_specs": (P(), P(), P("batch")), "out_specs": P()}
        return jax.jit(jax.shard_map(lambda p, s, b: both(p, s, *b), mesh=mesh(), **specs))

    @jax.jit
    def update(params, state, batch):
        loss, g = jax.value_and_grad(contract.loss)(params, *batch)
        by = (
            {"value_fn": lambda p: contract.loss(p, *batch)}
            if face == "value_fn"
            else {"grad_fn": lambda p: jax.grad(contract.loss)(p, *batch)}
        )
        return loss, *tx.update(g, state, params, **by)

    return update


def cases():
    """Every method by one window through every face, and every window by two methods."""
    faces = ("value_and_grad", "value_fn", "grad_fn", "jit", "shard_map")
    yield from ((name, "between", face) for name in METHODS for face in faces)
    yield from ((n, c, "value_and_grad") for n in ("sam", "layerwise_sam") for c in CADENCES)


@pytest.mark.parametrize(("name", "cadence", "face"), sorted({*cases()}))
def test_like_the_textbook(name, cadence, face):
    make, options, _, _ = METHODS[name]
    axis = {"axis_name": "batch"} if face == "shard_map" else {}
    when, due = CADENCES[cadence]
    tx = lsam.with_parts(make(rho=RHO, **options, **axis), when=when())
    batches = [contract.batch(i % 5, size=8) for i in range(STEPS)]
    step = step_of(tx, face)

    def place(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh(), spec)) if face == "jit" else tree

    params, times = place(contract.parameters(), P()), 0
    state = place(tx.init(contract.parameters()), P())
    for count, (batch, want) in enumerate(zip(batches, textbook(name, due, batches))):
        loss, direction, state = step(params, state, place(batch, P("batch")))
        times += bool(due(count))
        assert abs(loss - want[0]) <= EXACT * abs(want[0])
        assert bool(state.selected.any()) == bool(due(count))
        got = named(direction)
        for path in got:
            assert relative_error(got[path], want[1][path]) <= EXACT, (count, path)
        params = place(unnamed(want[2], contract.parameters()), P())
    assert 0 < times < STEPS
    assert int(state.perturbations.max()) <= times


PARTLY = {
    "momentum_sam": lsam.momentum_sam,
    "adazo_sam": lsam.adazo_sam,
    "gam": lsam.gam,
    "functional_sam": lsam.functional_sam,
    "esam": lambda rho: lsam.esam(rho, gamma=0.5),
    "esam, everything drawn": lambda rho: lsam.esam(rho, 1.0, gamma=0.5),
    "gsam": lsam.gsam,
    "stable_sam": lsam.stable_sam,
    "sparse_sam": lsam.sparse_sam,
    "sam_on": lsam.sam_on,
    "layerwise_sam": lambda rho: lsam.layerwise_sam(1, rho, 0.8),
    "stale": lambda rho: lsam.with_parts(lsam.sam(rho), ascent=lsam.stale()),
}
LOSS = {"functional_sam": "split", "esam": "per_sample", "esam, everything drawn": "per_sample"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The loss cannot be traced")
@pytest.mark.parametrize(
    ("name", "traced"), [(n, t) for n in PARTLY for t in (True, False) if t or n not in LOSS]
)
def test_inside_it_is_the_method_and_outside_the_plain_gradient(name, traced):
    """Whatever else a method computes, at the same weights; also where a loss is not traced."""
    loss, tx = contract.LOSSES[LOSS.get(name, "plain")], PARTLY[name](RHO)
    loss = loss if traced else untraceable
    timed = lsam.with_parts(tx, when=lsam.every(2))
    params, batch = contract.parameters(), contract.batch(0, size=8)
    jit = jax.jit if traced else (lambda fun: fun)
    state = tx.init(params)
    found = jit(lsam.value_and_grad(loss, timed))
    own = jit(lsam.value_and_grad(loss, tx))
    # A step before, so that what remembers has something to remember.
    _, _, state = own(params, state, *batch)
    inside = state._replace(count=jnp.asarray(2, jnp.int32))
    want, got = own(params, inside, *batch), found(params, inside, *batch)
    for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)
    _, direction, after = found(params, state._replace(count=jnp.asarray(1, jnp.int32)), *batch)
    plain = jax.grad(contract.loss)(params, *batch)
    for x, y in zip(*map(jax.tree.leaves, (direction, plain)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)
    assert not after.selected.any()
    pairs = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (want[1], plain)))
    assert max(relative_error(a, b) for a, b in pairs) > 1e-3


def untraceable(params, x, y):
    """The loss, with a choice in Python."""
    return contract.loss(params, x, y) if x[0, 0] > -100 else 0.0


ALWAYS = {
    "between": lambda: lsam.between(0, 10**6),
    "between, of a run": lambda: lsam.between(0, 1, steps=50),
    "bernoulli": lambda: lsam.bernoulli(lambda count: 1.0 + 0 * count),
    "every": lambda: lsam.every(lambda count: 1 + 0 * count),
    "between, all": lambda: lsam.between(0),
    "bernoulli, all": lambda: lsam.bernoulli(1.0),
    "every, all": lambda: lsam.every(1),
}


def run(tx, loss=contract.loss):
    step = jax.jit(lsam.value_and_grad(loss, tx))
    params, state, found = contract.parameters(), tx.init(contract.parameters()), []
    for count in range(4):
        value, direction, state = step(params, state, *contract.batch(count))
        params = jax.tree.map(lambda w, d: w - LR * d, params, direction)
        found.append((value, direction, state))
    return jax.tree.leaves(found)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lsam.sam, lambda rho: lsam.layerwise_sam(1, rho)])
def test_a_window_that_is_always_open_is_the_method(make):
    want = run(make(RHO))
    for name, when in ALWAYS.items():
        got = run(lsam.with_parts(make(RHO), when=when()))
        assert all(np.array_equal(x, y) for x, y in zip(got, want, strict=True)), name


@pytest.mark.parametrize("make", [lsam.sam, lambda rho: lsam.layerwise_sam(1, rho)])
def test_a_window_that_never_opens_is_the_plain_gradient(make):
    tx = lsam.with_parts(make(RHO), when=lsam.bernoulli(lambda count: 0.0 * count))
    params, state = contract.parameters(), tx.init(contract.parameters())
    step = jax.jit(lsam.value_and_grad(contract.loss, tx))
    for count in range(4):
        loss, direction, state = step(params, state, *contract.batch(count))
        want = GRADIENT(params, *contract.batch(count))
        for x, y in zip(*map(jax.tree.leaves, ((loss, direction), want)), strict=True):
            assert np.array_equal(x, y)
        params = jax.tree.map(lambda w, d: w - LR * d, params, direction)
    assert not state.perturbations.any()


BAD = [
    (lsam.every, (0,), ValueError, ["period", "0", "at least 1"]),
    (lsam.every, (2.5,), ValueError, ["period", "2.5", "whole"]),
    (lsam.between, (5, 5), ValueError, ["start=5", "stop=5", "nothing would ever"]),
    (lsam.between, (10, 5), ValueError, ["start=10", "stop=5", "nothing would ever"]),
    (lsam.between, (-1, 5), ValueError, ["start", "-1", "at least 0"]),
    (lsam.between, (0.5,), ValueError, ["start", "0.5", "whole", "steps="]),
    (lsam.between, (0, 0.5), ValueError, ["stop", "0.5", "whole"]),
    (lsam.between, (NAN, 5), ValueError, ["start", "nan"]),
    (lsam.between, (lambda count: 1, 5), TypeError, ["start", "plain number"]),
    (lsam.between, (100, None, 50), ValueError, ["start", "100", "share", "steps=50"]),
    (lsam.between, (0, 10, 50), ValueError, ["stop", "10", "share", "steps=50"]),
    (lsam.between, (1.0, None, 50), ValueError, ["start=1.0", "steps=50", "nothing would ever"]),
    (lsam.between, (0.5, 0.505, 50), ValueError, ["start=0.5", "stop=0.505", "nothing would"]),
    (lsam.between, (0.9, 0.1, 50), ValueError, ["start=0.9", "stop=0.1", "nothing would ever"]),
    (lsam.between, (0.5, None, 0), ValueError, ["steps=0", "nothing would ever"]),
    (lsam.between, (NAN, None, 50), ValueError, ["start", "nan"]),
    (lsam.bernoulli, (0,), ValueError, ["p", "0", "above 0"]),
    (lsam.bernoulli, (1.5,), ValueError, ["p", "1.5", "at most 1"]),
    (lsam.bernoulli, ("0.5",), TypeError, ["p", "0.5"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "given", "kind", "words"), BAD, ids=ids([b[1:] for b in BAD]))
def test_a_window_that_can_never_open(make, given, kind, words):
    with refused(kind, *words):
        make(*given)


def test_a_step_that_perturbed_nothing_leaves_no_choice_to_go_on_with():
    w = {"a": jnp.ones((2, 2)), "b": 2 * jnp.ones((2, 2))}
    chosen = {"every": [], "stale": []}
    for name, parts in {
        "every": {"when": lsam.every(2)},
        "stale": {"ascent": lsam.stale()},
    }.items():
        tx = lsam.layerwise_sam(1, 2.0, alpha=1.0, normalize=True, select_every=4)
        tx = lsam.with_parts(tx, **parts)
        step, state = jax.jit(lsam.value_and_grad(squares, tx)), tx.init(w)
        for _ in range(8):
            _, _, state = step(w, state)
            chosen[name].append(int(jnp.sum(state.selected)))
    assert chosen["every"] == [1, 0] * 4
    assert chosen["stale"] == [1, 1, 0, 1, 0, 1, 0, 1]


def squares(w):
    return sum(jnp.sum(x**2) for x in w.values())


def test_a_period_may_be_a_schedule_that_is_not_whole():
    due = lsam.every(optax.linear_schedule(2, 4, 40)).due
    got = [count for count in range(40) if due(jnp.asarray(count))]
    assert got == [count for count in range(40) if count % int(2 + count / 20) == 0]
    look = lsam.look_sam(0.1, optax.linear_schedule(1.5, 1.5, 1))
    assert all(look.method.cadence.due(jnp.asarray(count)) for count in range(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda when: lsam.with_parts(lsam.functional_sam(0.1), when=when),
        lambda when: lsam.with_parts(lsam.esam(0.1, gamma=0.5), when=when),
        lambda when: lsam.with_parts(lsam.gam(0.1), when=when),
        lambda when: lsam.with_parts(lsam.adazo_sam(0.1), when=when),
        lambda when: lsam.with_parts(lsam.momentum_sam(0.1), when=when),
        lambda when: lsam.with_parts(lsam.ae_sam(0.1), ascent=lsam.adazo_sam().method.ascent),
    ],
)
def test_what_the_clean_gradient_decides_goes_with_no_other_ascent_or_descent(make):
    large = lsam.ae_sam(0.1).method.cadence
    with refused(ValueError, "clean", "when=every(2)"):
        make(large).init({"w": jnp.ones((2, 2))})
