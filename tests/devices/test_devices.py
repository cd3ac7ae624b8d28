"""Named axes: vmap(axis_name), pmap, shard_map. Collectives in the loss, also in the branches.

The textbook runs on the whole batch on one device, wherever JAX defines the gradient to be that
of the whole batch; under pmap it is not (each device has the gradient of its own copy of the
parameters), and there the textbook runs under pmap too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from three_layers import CHOICES, assert_one_step, state_selecting, three_layers
from training import RHO, assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")
ONE_CORE = [pytest.param(c, marks=pytest.mark.core if c == CHOICES[0] else ()) for c in CHOICES]

DEVICES = 4


def synced_middle(x, w, key, axis="batch"):
    """BatchNorm over all devices, between the layers."""
    y = x @ w
    y = y - jax.lax.pmean(y.mean(0), axis)
    return y * jax.lax.rsqrt(jax.lax.pmean((y**2).mean(0), axis) + 1e-3)


def whole_middle(x, w, key):
    y = x @ w
    y = y - y.mean(0)
    return y * jax.lax.rsqrt((y**2).mean(0) + 1e-3)


def synced():
    params, batch, local = three_layers(synced_middle)

    def loss(params, batch):
        value, aux = local(params, batch)
        return jax.lax.pmean(value, "batch"), {"right": jax.lax.psum(aux["right"], "batch")}

    return params, batch, loss


def whole_loss(params, batch):
    value, aux = three_layers(whole_middle)[2](params, batch)
    return value, {"right": aux["right"]}


def split(batch):
    """A leading axis of devices for x and y; every device has the same key."""
    rows = {name: batch[name].reshape(DEVICES, -1, *batch[name].shape[1:]) for name in ("x", "y")}
    return {**rows, "key": jnp.stack([batch["key"]] * DEVICES)}


def everywhere(tree):
    return jax.tree.map(lambda x: jnp.stack([x] * DEVICES), tree)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ONE_CORE)
@pytest.mark.parametrize("mapped", ["vmap", "pmap"])
def test_mapped_axes(mapped, chosen):
    """Every device with the textbook of its own gradient; the loss and aux are the whole batch's.

    The selection is fixed: the gradients differ by device, so a selection by their norms could
    differ too, and devices that disagree on a branch with collectives would wait forever.
    """
    params, batch, loss = synced()
    over = {"vmap": jax.vmap, "pmap": jax.pmap}[mapped]
    mapper = functools.partial(over, axis_name="batch")
    tx = lsam.layerwise_sam(None, RHO, 0.8, selection=list(chosen))
    step = mapper(lsam.value_and_grad(loss, tx, has_aux=True))
    args = everywhere(params), everywhere(tx.init(params)), split(batch)
    (value, aux), grads, _ = jax.jit(step)(*args) if mapped == "vmap" else step(*args)
    gradient = mapper(jax.value_and_grad(loss, has_aux=True))
    g = gradient(args[0], args[2])[1]
    moved = {n: args[0][n] + (RHO * g[n] if n in chosen else 0) for n in g}
    h = gradient(moved, args[2])[1]
    want = {n: 0.2 * g[n] + 0.8 * h[n] if n in chosen else h[n] for n in g}
    assert_same(grads, want)
    assert_same((value[0], jax.tree.map(lambda x: x[0], aux)), whole_loss(params, batch))


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ONE_CORE)
def test_pmap_with_a_dynamic_selection(chosen):
    """A switch with collectives in its branches: all devices hold the same state, so all agree."""
    params, batch, loss = synced()
    tx = lsam.layerwise_sam(len(chosen), RHO, 0.8)
    fixed = lsam.layerwise_sam(None, RHO, 0.8, selection=list(chosen))
    got, want = (
        jax.pmap(lsam.value_and_grad(loss, t, has_aux=True), axis_name="batch")(
            everywhere(params), everywhere(state), split(batch)
        )
        for t, state in [(tx, state_selecting(tx, params, *chosen)), (fixed, fixed.init(params))]
    )
    assert_same(got, want)


def mesh():
    return Mesh(np.array(jax.devices()[:DEVICES]), ("batch",))


@pytest.mark.parametrize("chosen", ONE_CORE)
def test_shard_map(chosen):
    """With checked replication the gradient of a pmean-ed loss is that of the whole batch."""
    params, batch, loss = synced()
    tx = lsam.layerwise_sam(len(chosen), RHO, 0.8)
    specs = {"x": P("batch"), "y": P("batch"), "key": P()}
    step = jax.jit(
        jax.shard_map(
            lsam.value_and_grad(loss, tx, has_aux=True),
            mesh=mesh(),
            in_specs=(P(), P(), specs),
            out_specs=P(),
        )
    )
    (value, aux), grads, state = step(params, state_selecting(tx, params, *chosen), batch)
    gradient = jax.jit(jax.value_and_grad(whole_loss, has_aux=True))
    want = textbook.step(gradient, params, batch, set(chosen), RHO, 0.8)
    assert_same((value, aux), (want.loss, want.aux))
    assert_same(grads, textbook.unnamed(want.direction, grads))
    assert_same(state.norms, np.float32([want.norms[n] for n in lsam.layer_names(params)]))


@pytest.mark.parametrize("chosen", ONE_CORE)
def test_a_sharded_batch_under_jit(chosen):
    """Plain jit over sharded arrays: no collectives in the user's code."""
    params, batch, _ = synced()
    rows, same = NamedSharding(mesh(), P("batch")), NamedSharding(mesh(), P())
    place = {"x": rows, "y": rows, "key": same}
    sharded = {name: jax.device_put(x, place[name]) for name, x in batch.items()}
    assert_one_step(jax.device_put(params, same), sharded, whole_loss, chosen)
