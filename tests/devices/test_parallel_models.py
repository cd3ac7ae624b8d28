"""What depends on the batch beyond a mean: statistics, dropout, a last batch that is not full."""

import functools

import jax
import jax.numpy as jnp
import pytest
from on_devices import AXIS, MAPPED, batch, mapped, single, train
from training import assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

DEVICES = 4
KEEP = 0.7


def network(params, x, y, rows, statistics, mask):
    """Squared errors [B] of a network with batch normalisation and dropout, and its mean."""
    x = jnp.tanh(x @ params["a"]["w"] + params["a"]["b"])
    mean, square = statistics(x, rows), statistics(x**2, rows)
    x = (x - mean) * jax.lax.rsqrt(square - mean**2 + 1e-3) * mask
    x = jnp.tanh(x @ params["b"]["w"] + params["b"]["b"])
    out = x @ params["c"]["w"] + params["c"]["b"]
    return jnp.sum((out - y) ** 2, 1), jnp.broadcast_to(mean, x.shape)


def masks(device, shape):
    """Dropout by a key of the device's own."""
    key = jax.random.fold_in(jax.random.key(7), device)
    return jnp.where(jax.random.bernoulli(key, KEEP, shape), 1 / KEEP, 0)


def uneven(count):
    """A batch of 16 of which 13 rows are real, as 0 or 1 for each row."""
    return *batch(count), (jnp.arange(16) < 13).astype(float)


def on_device(across):
    """The loss of one device; statistics over all devices or over its own rows alone."""

    def statistics(x, rows):
        total, count = (x * rows[:, None]).sum(0), rows.sum()
        return jax.lax.psum(total, AXIS) / jax.lax.psum(count, AXIS) if across else x.mean(0)

    def loss(params, x, y, rows):
        mask = masks(jax.lax.axis_index(AXIS), (len(x), 5))
        losses, mean = network(params, x, y, rows, statistics, mask)
        return (losses * rows).sum() / jax.lax.pmean(rows.sum(), AXIS), mean

    return loss


def on_one_device(across):
    """The same on the whole batch: the mean over the real rows."""

    def statistics(x, rows):
        if across:
            return (x * rows[:, None]).sum(0) / rows.sum()
        own = x.reshape(DEVICES, -1, x.shape[1]).mean(1)
        return jnp.repeat(own, len(x) // DEVICES, 0)

    def loss(params, x, y, rows):
        share = (len(x) // DEVICES, 5)
        mask = jnp.concatenate([masks(device, share) for device in range(DEVICES)])
        losses, mean = network(params, x, y, rows, statistics, mask)
        return jnp.mean(losses, where=rows > 0), mean

    return loss


@functools.cache
def want(across):
    tx = lsam.layerwise_sam(2, 0.3, 0.8)
    return list(train(jax.jit(single(tx, on_one_device(across))), tx, steps=4, batch=uneven))


@pytest.mark.slow
@pytest.mark.parametrize("across", [True, False], ids=["synced", "local"])
@pytest.mark.parametrize("kind", MAPPED)
def test_statistics_dropout_and_an_uneven_batch(kind, across):
    tx = lsam.layerwise_sam(2, 0.3, 0.8, axis_name=AXIS)
    step = mapped(kind, single(tx, on_device(across)), DEVICES, arguments=3)
    got = train(step, tx, steps=4, batch=uneven)
    for some, other in zip(got, want(across), strict=True):
        assert_same(some, other)
