"""What a segment, and a scan, keeps for its way back: the fewest arrays, and the same gradient."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

import lsam_jax as lsam
from lsam_jax.engine import jaxprs, kept
from lsam_jax.engine.both_ways import BothWays

X = jnp.sin(jnp.arange(32.0)).reshape(8, 4)
W = jnp.cos(jnp.arange(24.0)).reshape(4, 6)


def gelu(x, w):
    y = x @ w
    return 0.5 * y * (1 + jnp.tanh(0.8 * (y + 0.04 * y**3)))


def normalised(x, w):
    y = x @ w  # as Flax does, by means of y and of its square
    mean, square = y.mean(0), jnp.square(y).mean(0)
    scale = jax.lax.rsqrt(square - mean**2 + 1e-3)
    return jax.nn.relu((y - mean) * scale)


def dropped(x, w):
    return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, (8, 6)), x @ w, 0.0)


def in_three(x, w):
    a, b, c = jnp.split(x @ w, 3, axis=1)  # of which the last is not kept
    return a * b + c


def ways_of(run):
    opened = jaxprs.rewrite(jax.make_jaxpr(run)(X, W), [X, W], jaxprs.open_nested)
    in_list = jex.jaxpr_as_fun(opened)
    return BothWays(in_list, [0, 1], [0], handed_on=0, args=[X, W])


def way_back(ways, run):
    computed = ways.run(X, W)
    error = jnp.exp(run(X, W))
    args = ways.arguments([X, W], computed, [error])
    return ways.way_back(args), args, error


def primitives(closed):
    def count(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn.primitive.name
            for inner in jaxprs.nested_jaxprs(eqn):
                yield from count(inner)

    return collections.Counter(count(closed.jaxpr))


@pytest.mark.parametrize(
    ("run", "count"),
    [
        (gelu, 2),  # y and the tanh, instead of five
        (normalised, 1),  # y, whose mean is as small as W's rows
        (dropped, 0),  # a mask, of one byte each
        (in_three, 0),  # two thirds of it
    ],
)
def test_the_fewest_arrays_are_kept_and_the_gradient_is_the_same(run, count):
    ways = ways_of(run)
    closed, args, error = way_back(ways, run)
    large = [x for x in ways.run(X, W)[1:] if x.size == 48 and x.dtype != bool]
    assert len(large) == count
    _, pull_back = jax.vjp(run, X, W)
    for found, expected in zip(jex.jaxpr_as_fun(closed)(*args), pull_back(error), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", [gelu, normalised, dropped, in_three])
def test_nothing_that_takes_time_is_computed_again(run):
    names = primitives(way_back(ways_of(run), run)[0])
    assert names["dot_general"] == 2  # of the two errors
    assert not {"tanh", "rsqrt", "random_bits", "random_wrap"} & set(names)


def test_a_long_way_of_quick_equations_is_followed_once():
    def run(x, w):
        y = jnp.sin(x @ w)
        for _ in range(100):  # each twice what the last one reads
            y = y * y - y
        return y

    ways = ways_of(run)
    closed, args, error = way_back(ways, run)
    assert sum(x.size == 48 for x in ways.run(X, W)) <= 3  # the result, the sine and the cosine
    _, pull_back = jax.vjp(run, X, W)
    for found, expected in zip(jex.jaxpr_as_fun(closed)(*args), pull_back(error), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


MANY = jnp.sin(jnp.arange(16384.0)).reshape(4096, 4)


def less_mean(x, w):
    y = jnp.tanh(x @ w)
    return y - y.mean(0)


def read_in_front(x, w):
    z = less_mean(x, w)
    return jnp.sum(jnp.exp(z)), z


def of_two(x, w):
    return jnp.tanh(x @ w) + jnp.exp(x @ w)


def beside(x, w):
    y = of_two(x, w)
    return y.sum(0) * 3.0, y * 3.0, y


def at_hand(x, w):
    return jnp.sum(x @ w, 0), jnp.arange(6.0) * 2.0


@pytest.mark.parametrize(
    ("run", "moved"),
    [
        (less_mean, ["sub"]),  # so that the tanh crosses, and its mean, which is small
        (lambda x, w: less_mean(x[:8], w), []),  # too small to be worth it
        (lambda x, w: less_mean(x, w) * 2.0, []),  # two in a row
        (lambda x, w: (less_mean(x, w) > 0.0).astype(float), ["convert_element_type"]),  # a byte
        (read_in_front, []),  # the exponential reads it there
        (of_two, []),  # both would cross in the place of one
        (beside, ["mul"]),  # of what crosses anyway, and not of its sum
        (at_hand, ["iota", "mul"]),
        (lambda x, w: w * 2.0, []),  # of what others move
    ],
)
def test_quick_equations_go_behind_a_cut_where_hardly_more_crosses_it(run, moved):
    def loss(x, w):
        some = jax.lax.optimization_barrier(jax.tree.leaves(run(x, w)))
        return sum(jnp.sum(jnp.sin(x)) for x in some)

    jaxpr = jax.make_jaxpr(loss)(MANY, W).jaxpr
    place = [eqn.primitive.name for eqn in jaxpr.eqns].index("optimization_barrier")
    sides = jaxpr.eqns[:place], jaxpr.eqns[place:]
    before, after = kept.moved_on(*sides, jaxpr.invars[1:], jaxpr.outvars)
    found = [eqn.primitive.name for eqn in after[: len(after) - len(sides[1])]]
    assert [name for name in found if name != "broadcast_in_dim"] == moved
    in_order = jaxprs.as_function([*before, *after], jaxpr.invars, jaxpr.outvars, jaxpr)
    np.testing.assert_array_equal(in_order(MANY, W)[0], loss(MANY, W))


def test_what_the_loss_returns_is_made_where_it_was():
    jaxpr = jax.make_jaxpr(lambda x, w: jnp.sin(less_mean(x, w)))(MANY, W).jaxpr
    *others, last = jaxpr.eqns
    assert kept.moved_on(others, [last], [], last.invars) == (others, [last])
    assert kept.moved_on(others, [last], [], [])[1] != [last]


LAYERS = jnp.sin(jnp.arange(48.0)).reshape(3, 4, 4)


def over(body, w, x=X):
    return jnp.sum(jax.lax.scan(body, x, w)[0] ** 2)


def gelu_layer(x, w):
    return x + gelu(x, w), None


def dropout_layer(x, w):
    key = jax.random.fold_in(jax.random.key(0), jnp.int32(w[0, 0] * 100))
    return x + jnp.where(jax.random.bernoulli(key, 0.5, x.shape), jnp.sin(x @ w), 0.0), None


def checkpointed_layer(x, w):
    return jax.jit(jax.checkpoint(gelu_layer))(x, w)


def printing_layer(x, w):
    jax.debug.callback(lambda: None)
    return gelu_layer(x, w)


def lighter(loss):
    closed = jax.make_jaxpr(loss)(LAYERS)
    return closed, kept.lighter_scans(closed, [LAYERS])


def stacked(fun, *args):
    """Bytes that the scans of a program collect, and the types of these."""

    def scans(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "scan":
                yield jaxprs.scan_of(eqn)
            for inner in jaxprs.nested_jaxprs(eqn):
                yield from scans(inner)

    closed = jax.make_jaxpr(fun)(*args)
    found = [v.aval for scan in scans(closed.jaxpr) for v in scan.eqn.outvars[scan.carried :]]
    return sum(a.size * a.dtype.itemsize for a in found), {a.dtype.name for a in found}


@pytest.mark.parametrize("body", [gelu_layer, dropout_layer])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_lighter_scan_has_the_same_gradient_and_keeps_less(body, reverse):
    def loss(w):
        return jnp.sum(jax.lax.scan(body, X, w, reverse=reverse)[0] ** 2)

    _, light = lighter(loss)
    run = lambda w: jex.jaxpr_as_fun(light)(w)[0]  # noqa: E731
    assert run(LAYERS) == loss(LAYERS)
    expected, expected_gradient = jax.jvp(jax.grad(loss), [LAYERS], [LAYERS])
    found, found_gradient = jax.jvp(jax.grad(run), [LAYERS], [LAYERS])  # and differentiated again
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found_gradient, expected_gradient, rtol=1e-5, atol=1e-4)
    bytes_found, types = stacked(jax.grad(run), LAYERS)
    bytes_before, _ = stacked(jax.grad(loss), LAYERS)
    assert bytes_found < {gelu_layer: 0.7, dropout_layer: 1.01}[body] * bytes_before
    assert "uint32" not in types  # of the mask, not of the bits


@pytest.mark.parametrize("body", [checkpointed_layer, printing_layer])
def test_a_scan_that_says_what_it_keeps_or_is_seen_from_outside_stays_as_it_is(body):
    closed, light = lighter(lambda w: over(body, w))
    assert light is closed


def test_a_loss_with_references_stays_as_it_is():
    def loss(w):
        held = jax.new_ref(jnp.zeros(()))
        held[...] = over(gelu_layer, w)
        return held[...]

    closed, light = lighter(loss)
    assert light is closed


BY_TIME = {"in": jnp.ones((4, 4)), "over": W[:, :4]}


def by_time(params):
    """A recurrence, whose scan is over no layers."""

    def step(h, x):
        return gelu(h, params["over"]) + x @ params["in"], None

    return jnp.sum(jax.lax.scan(step, X, jnp.stack([X] * 5))[0] ** 2)


@pytest.mark.parametrize(
    ("tx", "loss", "params", "most"),
    [
        (lsam.sam(0.1), lambda w: over(gelu_layer, w), LAYERS, 1.1),  # of a plain gradient's
        (lsam.with_parts(lsam.sam(0.1), ascent=lsam.stale()), by_time, BY_TIME, 0.7),
        (lsam.layerwise_sam(1, 0.1), by_time, BY_TIME, 1.3),
        (lsam.layerwise_sam(None, 0.1, selection="none"), by_time, BY_TIME, 0.7),
    ],
    ids=["sam", "stale", "layer-wise", "nothing perturbed"],
)
def test_every_pass_over_a_scan_keeps_less(tx, loss, params, most):
    found, _ = stacked(lsam.value_and_grad(loss, tx), params, tx.init(params))
    plain, _ = stacked(jax.value_and_grad(loss), params)
    assert found < most * plain
