"""A radius bound to the gradient, min(sigma / ||g||, rho_max), in every method, on every face."""

import functools

import contract
import family_textbook as textbook
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import LOSSES, METHODS
from family_steps import of_network, steps_of
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from refusals import NAN, refused
from textbook import relative_error
from training import EXACT

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

STEPS, LR = 20, 0.1
ON_DEVICES = ["sam", "layerwise_sam", "generalized_sam", "asam", "look_sam"]
RHO_MAX = 0.3


def sigma(count):
    """Falls to 0 within the run, so that first one and then the other bound holds."""
    return jnp.where(count < 17, 2.0 / (1 + 0.6 * count), 0.0)


class Bounded:
    """The textbook's radius, from the gradient that it is given; counts which bound held."""

    def __init__(self):
        self.by_gradient, self.all = 0, 0

    def __call__(self, g, count):
        s = 2.0 / (1 + 0.6 * count) if count < 17 else 0.0
        self.by_gradient += s / textbook.norm(g) < RHO_MAX
        self.all += 1
        return min(s / textbook.norm(g), RHO_MAX)


def of_sam(p, order, rho):
    def step(w, count):
        g = p.gradient(w)
        return p.gradient(w + rho(g, count) * textbook.unit(g))

    return step


def of_layerwise(p, order, rho):
    norms = dict.fromkeys(p.layers, 0)

    def step(w, count):
        nonlocal norms
        mask = sum(p.layers[n] for n in textbook.choose(norms, 2, order))
        g = p.gradient(w)
        h = p.gradient(w + rho(mask * g, count) * mask * g)
        norms = textbook.layer_norms(p, h)
        return np.where(mask, 0.2 * g + 0.8 * h, h)

    return step


def of_generalized(p, order, rho):
    def step(w, count):
        g = p.gradient(w)
        return 0.3 * g + 0.7 * p.gradient(w + rho(g, count) * textbook.unit(g))

    return step


def of_asam(p, order, rho):
    weights = sum(m for n, m in p.arrays.items() if not n.endswith("/b"))

    def step(w, count):
        g = p.gradient(w)
        T = np.where(weights, np.abs(w) + 0.01, 1.0)
        return p.gradient(w + rho(g, count) * T**2 * g / textbook.norm(T * g))

    return step


def of_look(p, order, rho):
    kept = None

    def step(w, count):
        nonlocal kept
        g = p.gradient(w)
        if count % 3 == 0:
            h = p.gradient(w + rho(g, count) * textbook.unit(g))
            kept = h - textbook.unit(g) * np.dot(textbook.unit(g), h)
            if textbook.norm(kept) < 1e-14:
                kept = 0 * kept
            return h
        return g + 0.7 * textbook.norm(g) * textbook.unit(kept)

    return step


def of_gam(p, order, rho):
    """The ascent gradient is that of the gradient's norm; the same radius weighs the penalty."""

    def along(w):
        g = p.gradient(w)
        return (p.gradient(w + 0.02 * textbook.unit(g)) - g) / 0.02

    def step(w, count):
        f = along(w)
        r = rho(f, count)
        return p.gradient(w) + 0.5 * r * along(w + r * textbook.unit(f))

    return step


TABLE = {
    "sam": (lsam.sam, {}, of_sam),
    "layerwise_sam": (lsam.layerwise_sam, {"k": 2, "alpha": 0.8}, of_layerwise),
    "generalized_sam": (lsam.generalized_sam, {"alpha": 0.7}, of_generalized),
    "asam": (lsam.asam, {}, of_asam),
    "look_sam": (lsam.look_sam, {"every": 3}, of_look),
    "gam": (lsam.gam, {"alpha": 0.5, "step": 0.02}, of_gam),
}


def in_a_chain(tx, value):
    @jax.jit
    def step(params, state, batch):
        of_params = lambda params: value(params, batch)  # noqa: E731
        direction, state = tx.update(params, state, params, value_fn=of_params)
        return of_params(params), direction, state

    return step


def faces():
    for name in TABLE:
        for face in ("value_and_grad", "value_fn", "grad_fn"):
            if (name, face) != ("gam", "grad_fn"):
                yield name, face


@pytest.mark.parametrize(("name", "face"), list(faces()))
def test_like_the_textbook(name, face):
    problem, params, value, batches = of_network("branches")
    make, options, of = TABLE[name]
    tx = make(rho=lsam.bounded(sigma, RHO_MAX), **options)
    step = in_a_chain(tx, value) if face == "value_fn" else steps_of(tx, value, face)
    order = problem.order if face == "grad_fn" else tuple(problem.layers)
    rho = Bounded()
    want = of(problem, order, rho)
    w, unravel = ravel_pytree(params)
    w, state = np.asarray(w), tx.init(params)
    for count in range(STEPS):
        problem.loss.count = problem.gradient.count = count
        at = unravel(jnp.asarray(w))
        _, direction, state = step(at, state, batches[count % len(batches)])
        expected = want(w, count)
        assert relative_error(np.asarray(ravel_pytree(direction)[0]), expected) <= EXACT, count
        w = w - LR * expected
    assert 0 < rho.by_gradient < rho.all  # else it tests one of the two bounds alone


def run(tx, loss, steps=3, size=4, place=lambda tree: tree, lay=lambda tree: tree):
    step = jax.jit(lsam.value_and_grad(loss, tx))
    params = place(contract.parameters())
    state = place(tx.init(params))
    for count in range(steps):
        value, direction, state = step(params, state, *lay(contract.batch(count, size)))
        yield value, direction, state
        params = jax.tree.map(lambda w, d: w - LR * d, params, direction)


@functools.cache
def on_one_device(name):
    """What others are compared with."""
    method = METHODS[name]
    return list(run(method(rho=BOUNDED), LOSSES[method.loss], size=8))


def assert_equal(got, want, tolerance=0.0):
    for some, other in zip(got, want, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (some, other)), strict=True):
            np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_huge_sigma_is_the_method_at_rho_max(name):
    """To the bit."""
    method = METHODS[name]
    got, want = (method(rho=rho) for rho in (lsam.bounded(1e30, 0.1), 0.1))
    loss = LOSSES[method.loss]
    assert_equal(run(got, loss), run(want, loss))


@pytest.mark.parametrize("name", ["sam", "layerwise_sam", "esam", "gam"])
def test_a_sigma_of_zero_is_the_method_without_a_radius(name):
    method = METHODS[name]
    got, want = (method(rho=rho) for rho in (lsam.bounded(0.0, 0.1), 0.0))
    loss = LOSSES[method.loss]
    assert_equal(run(got, loss), run(want, loss))


@pytest.mark.slow
def test_the_largest_radius_may_be_one_for_each_layer():
    radii = lsam.per_layer({"a/w": 0.3}, default=0.02)
    params, (x, y) = contract.parameters(), contract.batch()
    gradient = jax.jit(jax.grad(contract.loss))
    g = gradient(params, x, y)
    size = textbook.norm(np.asarray(ravel_pytree(g)[0]))
    for s in (0.0, 0.05 * float(size), 1e9):
        by_gradient = s / size
        rho = {
            n: min(by_gradient, 0.3 if n == "a/w" else 0.02)
            for n in lsam.layer_names(params, "array")
        }
        there = {
            m: {n: w + rho[f"{m}/{n}"] * g[m][n] / size for n, w in arrays.items()}
            for m, arrays in params.items()
        }
        tx = lsam.sam(rho=lsam.bounded(s, radii))
        step = jax.jit(lsam.value_and_grad(contract.loss, tx))
        direction = step(params, tx.init(params), x, y)[1]
        assert_equal([direction], [gradient(there, x, y)], EXACT)


@pytest.mark.parametrize("name", [*ON_DEVICES, "momentum_sam", "sparse_sam", "sl_sam"])
def test_a_zero_gradient_moves_nothing(name):
    """Nor is anything not a number, with any sigma."""
    method = METHODS[name]
    params = contract.parameters()
    for s in (0.0, 0.1):
        tx = method(rho=lsam.bounded(s, 0.1))
        value_and_grad = jax.jit(lsam.value_and_grad(lambda p: 0.0 * p["a"]["w"].sum(), tx))
        _, direction, state = value_and_grad(params, tx.init(params))
        assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(direction))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


BOUNDED = lsam.bounded(0.2, 0.15)


@pytest.mark.parametrize("axis", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", ON_DEVICES)
def test_a_sharded_batch(name, axis):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType[axis],), devices=jax.devices()[:4])
    tx, loss = METHODS[name](rho=BOUNDED), contract.loss
    same, rows = (NamedSharding(mesh, spec) for spec in (P(), P("batch")))
    place, lay = (lambda tree, to=to: jax.device_put(tree, to) for to in (same, rows))
    assert_equal(run(tx, loss, size=8, place=place, lay=lay), on_one_device(name), EXACT)


def on_four(tx, checked, pmap=False):
    step = lsam.value_and_grad(contract.loss, tx)
    if pmap:
        mapped = jax.pmap(step, "batch", in_axes=(None, None, 0, 0), devices=jax.devices()[:4])

        def run(params, state, *batch):
            out = mapped(params, state, *(x.reshape(4, -1, *x.shape[1:]) for x in batch))
            return jax.tree.map(lambda x: x[0], out)

        return run
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    specs = {"in_specs": (P(), P(), P("batch"), P("batch")), "out_specs": P()}
    return jax.jit(jax.shard_map(step, mesh=mesh, check_vma=checked, **specs))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["checked", "unchecked", "pmap"])
@pytest.mark.parametrize("name", ON_DEVICES)
def test_mapped_devices(name, how):
    """One radius for all, that of the whole batch."""
    method = METHODS[name]
    tx = method.make(rho=BOUNDED, axis_name="batch", **method.options)
    step = on_four(tx, how == "checked", how == "pmap")
    params = contract.parameters()
    state = tx.init(params)
    for count, want in enumerate(on_one_device(name)):
        got = step(params, state, *contract.batch(count, 8))
        assert_equal([got], [want], EXACT)
        params, state = jax.tree.map(lambda w, d: w - LR * d, params, got[1]), got[2]


@pytest.mark.parametrize("how", ["replica", "m"])
def test_parts_of_a_batch_have_radii_of_their_own(how):
    params, (x, y) = contract.parameters(), contract.batch(size=8)
    gradient = jax.jit(jax.grad(contract.loss))
    directions, radii = [], []
    for n in range(4):
        part = x[2 * n : 2 * n + 2], y[2 * n : 2 * n + 2]
        g, unravel = ravel_pytree(gradient(params, *part))
        radii.append(min(0.2 / textbook.norm(g), 0.15))
        w = ravel_pytree(params)[0] + radii[-1] * textbook.unit(g)
        directions.append(ravel_pytree(gradient(unravel(w), *part))[0])
    assert len(set(map(float, radii))) == 4
    tx = lsam.sam(BOUNDED)
    if how == "replica":
        tx = lsam.sam(BOUNDED, axis_name="batch", perturbation_sync="replica")
        out = on_four(tx, True)(params, tx.init(params), x, y)
    else:
        step = lsam.value_and_grad(contract.loss, tx, m=2, batch_argnums=(1, 2))
        out = jax.jit(step)(params, tx.init(params), x, y)
    assert relative_error(ravel_pytree(out[1])[0], np.mean(directions, 0)) <= EXACT


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_types_are_kept_under_strict_promotion(dtype):
    params, (x, y) = contract.parameters(dtype), contract.batch()
    x, y = jnp.float32(x), jnp.float32(y)
    tx = lsam.layerwise_sam(1, lsam.bounded(0.2, 0.1), normalize=True)
    loss = lambda p, x, y: jnp.mean((x @ p["a"]["w"].astype(x.dtype)) ** 2) + 0 * y.sum()  # noqa: E731
    step = lsam.value_and_grad(loss, tx)
    _, want, _ = jax.jit(step)(params, tx.init(params), x, y)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        _, direction, state = jax.jit(step)(params, tx.init(params), x, y)
    assert_equal([direction], [want])
    assert {d.dtype for d in jax.tree.leaves(direction)} == {jnp.dtype(dtype)}
    assert state.norms.dtype == jnp.float32


def test_survival_is_that_of_the_bounded_radius():
    w = jnp.ones(10000, jnp.bfloat16)  # a gradient of norm 100
    for s, low, high in ((1.0, 0.0, 0.1), (1e9, 0.9, 1.0)):
        tx = lsam.sam(lsam.bounded(s, 10.0))
        assert low <= float(lsam.perturbation_survival(tx, w, w, tx.init(w))) <= high


def test_the_preset_anneals_over_the_last_steps():
    tx = lsam.presets.le_sam(steps=100, sigma=0.3, rho_max=5.0, anneal=0.2)
    w = jnp.full(9, 2.0)
    step = jax.jit(lsam.value_and_grad(lambda w: jnp.sum(w**2) / 2, tx))
    for count, share in ((0, 1.0), (79, 1.0), (90, 0.5), (100, 0.0), (1000, 0.0)):
        state = tx.init(w)._replace(count=jnp.asarray(count, jnp.int32))
        _, direction, _ = step(w, state)
        assert textbook.norm(direction - w) == pytest.approx(share * 0.3 / 6, abs=1e-12), count


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: lsam.bounded(-0.1, 1.0), ValueError, ["sigma", "-0.1", "at least 0"]),
        (lambda: lsam.bounded(NAN, 1.0), ValueError, ["sigma", "nan"]),
        (lambda: lsam.bounded("0.1", 1.0), TypeError, ["sigma", "'0.1'"]),
        (lambda: lsam.bounded(0.1, -1.0), ValueError, ["rho_max", "-1"]),
        (lambda: lsam.bounded(0.1, None), TypeError, ["rho_max", "None"]),
        (lambda: lsam.bounded(lsam.bounded(1.0, 1.0), 1.0), TypeError, ["sigma"]),
        (lambda: lsam.presets.le_sam(0), ValueError, ["steps", "0"]),
        (lambda: lsam.presets.le_sam(10, anneal=1.5), ValueError, ["anneal", "1.5"]),
        (
            lambda: lsam.sam(lsam.bounded(0.1, lsam.per_layer({"v": 1.0}))).init(
                {"w": jnp.ones(2)}
            ),
            ValueError,
            ["'v'", "does not exist", "w"],
        ),
    ],
)
def test_bad_input(make, error, words):
    with refused(error, *words):
        make()
