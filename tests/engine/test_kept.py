"""What a segment keeps for its way back: the fewest arrays, and the same gradient."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

from lsam_jax.engine import jaxprs
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


def ways_of(run):
    opened = jaxprs.rewrite(jax.make_jaxpr(run)(X, W), [X, W], jaxprs.open_nested)
    in_list = jex.jaxpr_as_fun(opened)
    return BothWays(in_list, [0, 1], [0], handed_on=0, args=[X, W], inside=jaxprs.as_it_is)


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
    ("run", "kept"),
    [
        (gelu, 2),  # y and the tanh, instead of five
        (normalised, 1),  # y, whose mean is as small as W's rows
        (dropped, 0),  # a mask, of one byte each
    ],
)
def test_the_fewest_arrays_are_kept_and_the_gradient_is_the_same(run, kept):
    ways = ways_of(run)
    closed, args, error = way_back(ways, run)
    large = [x for x in ways.run(X, W)[1:] if x.size == 48 and x.dtype != bool]
    assert len(large) == kept
    _, pull_back = jax.vjp(run, X, W)
    for found, expected in zip(jex.jaxpr_as_fun(closed)(*args), pull_back(error), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", [gelu, normalised, dropped])
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
