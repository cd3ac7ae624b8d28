"""Haiku: a convolutional network. No helper is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_at_floor, assert_exact
from zoo.common import CLASSES, Case, batches, cross_entropy

import lsam_jax as lsam

hk = pytest.importorskip("haiku")

CONVS = ("z_conv", "m_conv", "b_conv")
ORDER = (*(f"{name}/w" for name in CONVS), "a_head/w")


def network(x, width=4, start=0):
    """From the convolution `start` on: with all of them, what a user writes."""
    for name in CONVS[start:]:
        x = hk.Conv2D(width, 3, name=name)(x)
        x = hk.GroupNorm(2, name=f"{name}_norm")(x)
        x = hk.dropout(hk.next_rng_key(), 0.2, jax.nn.relu(x))
    return hk.Linear(CLASSES, name="a_head")(x.mean((1, 2)))


def build(width, dtype):
    """The transformed network, its parameters, and the batches."""
    data = batches(np.random.default_rng(0), 8, 8, 3)
    data = [{**batch, "x": batch["x"].astype(dtype)} for batch in data]
    net = hk.transform(lambda x, start=0: network(x, width, start))
    return net, jax.jit(net.init)(jax.random.key(0), data[0]["x"]), data


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_trains_like_the_textbook():
    net, params, data = build(4, jnp.float64)

    def loss_fn(params, batch):
        return cross_entropy(net.apply(params, batch["key"], batch["x"]), batch["y"])

    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float64")}
    assert_exact(Case(params, loss_fn, data, ORDER))


@pytest.mark.slow
def test_a_step_costs_its_floor():
    net, params, data = build(16, jnp.float32)

    def from_layer(start):
        def loss_fn(params, x, batch):
            return cross_entropy(net.apply(params, batch["key"], x, start), batch["y"])[0]

        return loss_fn

    assert_at_floor(
        lambda params, batch: from_layer(0)(params, batch["x"], batch),
        from_layer(1),
        params,
        ["m_conv/w", "a_head/w"],
        jax.ShapeDtypeStruct((len(data[0]["x"]), 8, 8, 16), jnp.float32),
        data[0],
    )


def test_slashes_in_a_key():
    """Haiku names nested modules by paths, and `layers` sees them as such."""

    def mlp(x):
        return hk.nets.MLP([4, 2], name="mlp")(x)

    params = hk.without_apply_rng(hk.transform(mlp)).init(jax.random.key(0), jnp.ones((1, 3)))
    assert lsam.layer_names(params) == ("mlp/~/linear_0/w", "mlp/~/linear_1/w")
    assert lsam.layer_names(params, "module") == ("mlp/~/linear_0", "mlp/~/linear_1")
