"""Around a method, where types say how weights lie: data_parallel, m, masks, freezing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P
from test_explicit_sharding import (
    BOTH,
    FSDP,
    LOSSES,
    LR,
    RHO,
    SPECS,
    TABLE,
    assert_equal,
    batch,
    mesh_of,
    on_mesh,
    parameters,
    place,
    trained,
    types,
)

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layerwise_sam", "sparse_sam", "esam", "adazo_sam"])
@pytest.mark.parametrize("data", [AxisType.Auto, AxisType.Explicit])
def test_axes_that_xla_lays_out_beside_explicit_ones(name, data):
    """Where the data axis is Auto, types tell of the model axis alone; and no context is needed."""
    mesh = mesh_of(BOTH, kinds=(data, AxisType.Explicit))
    method = TABLE[name]
    one = trained(method(RHO), "value_and_grad", simple(None)[method.loss], small(), SMALL)
    params = place(small(), {"a": P(None, "model"), "b": P("model")}, mesh)
    there = [on_mesh(mesh, xy, "data") for xy in SMALL]
    got = trained(method(RHO), "value_and_grad", simple(mesh)[method.loss], params, there)
    assert_equal(got, one)


SMALL = [(np.random.default_rng(i).normal(size=(8, 4)), np.ones((8, 3))) for i in range(3)]


def small():
    rng = np.random.default_rng(2)
    return {"a": jnp.asarray(rng.normal(size=(4, 4))), "b": jnp.asarray(rng.normal(size=(4, 3)))}


def simple(mesh, in_parts=False):
    """Losses on a mesh that they name themselves; what is contracted is whole."""

    def losses(p, x, y):
        h, b = jnp.tanh(x @ p["a"]), p["b"]
        if mesh is not None:
            rows = None if in_parts else jax.typeof(h).sharding.spec[0]
            h, b = (reshard(z, NamedSharding(mesh, P(r, None))) for z, r in [(h, rows), (b, None)])
        return jnp.sum((h @ b - y) ** 2, 1)

    return {
        "plain": lambda p, x, y: jnp.mean(losses(p, x, y)),
        "per_sample": lsam.per_sample(losses, argnums=(1, 2)),
    }


@pytest.mark.slow
def test_freezing_masks_and_survival():
    loss, tx = LOSSES["per_sample"], lsam.sparse_sam(RHO)
    frozen = optax.chain(lsam.sl_sam(RHO, 0.5), lsam.freeze_inactive(optax.adamw(0.01)))

    def everything(params, x, y):
        fisher = jax.jit(lambda *args: lsam.empirical_fisher(loss, *args))(params, x, y)
        masks = lsam.refresh_mask(tx, tx.init(params), fisher)
        assert types(masks) == types(tx.init(params))
        survived = lsam.perturbation_survival(tx, params, fisher, masks)
        state = frozen.init(params)
        how = {"value_fn": loss.at(x, y)}
        updates, new = jax.jit(lambda p, s: frozen.update(p, s, p, **how))(params, state)
        assert types(new) == types(state)
        return fisher, masks, survived, updates, new

    want, mesh = everything(parameters(), *batch(0)), mesh_of(BOTH)
    with jax.set_mesh(mesh):
        got = everything(place(parameters(), SPECS, mesh), *on_mesh(mesh, batch(0), "data"))
    assert_equal(got, want)


IN_PARTS = {
    "tensor": ({"a": P(None, "model"), "b": P("model")}, "data"),
    "whole_batch": ({"a": P(None, "data"), "b": P("data")}, None),
}


def test_samples_that_cannot_be_dealt_out_evenly():
    """Three of eight, of a loss that lays them along two devices."""
    tx, loss, mesh = lsam.esam(RHO, 1.0, gamma=0.4), LOSSES["per_sample"], mesh_of(BOTH)
    want = trained(tx, "value_and_grad", loss, parameters(), [batch(0)])
    with jax.set_mesh(mesh):
        params, xy = place(parameters(), SPECS, mesh), on_mesh(mesh, batch(0), "data")
        got = trained(tx, "value_and_grad", loss, params, [xy])
    assert_equal(got, want)


@pytest.mark.parametrize("kind", IN_PARTS)
def test_micro_batches(kind):
    specs, rows = IN_PARTS[kind]
    tx, mesh = lsam.sam(RHO), mesh_of(BOTH)

    def step(mesh):
        loss = simple(mesh, in_parts=True)["plain"]
        return jax.jit(lsam.value_and_grad(loss, tx, m=2, batch_argnums=(1, 2)))

    want = step(None)(small(), tx.init(small()), *SMALL[0])
    params = place(small(), specs, mesh)
    with jax.set_mesh(mesh):  # without it, some versions of JAX lose the mesh in a vmap
        got = step(mesh)(params, tx.init(params), *on_mesh(mesh, SMALL[0], rows))
    assert_equal(got, want)


def test_parts_that_lie_along_what_the_weights_do_are_explained():
    mesh, tx = mesh_of(BOTH), lsam.sam(RHO)
    params = place(small(), IN_PARTS["whole_batch"][0], mesh)
    step = lsam.value_and_grad(simple(mesh, True)["plain"], tx, m=2, batch_argnums=(1, 2))
    with pytest.raises(Exception, match=r"sharded") as error:
        jax.jit(step)(params, tx.init(params), *on_mesh(mesh, SMALL[0], "data"))
    assert any("Lay the batch along other axes" in note for note in error.value.__notes__)


def parallel(mesh, devices=None, **options):
    """Three steps by `data_parallel`, from rows that nothing has placed."""
    tx = lsam.layerwise_sam(1, RHO)
    value_and_grad = lsam.value_and_grad(LOSSES["plain"], tx)

    def step(params, state, xy):
        value, grads, state = value_and_grad(params, state, *xy)
        return jax.tree.map(lambda w, g: w - LR * g, params, grads), state, value

    if mesh is None:
        run, params = jax.jit(step), parameters()
    else:
        run, params = lsam.data_parallel(step, devices=devices, **options), parameters()
        params = place(params, SPECS, mesh)
    state = tx.init(params)
    for i in range(3):
        params, state, value = run(params, state, batch(i))
    return params, state, value


@pytest.mark.slow
@pytest.mark.parametrize("shape", [FSDP, BOTH])
@pytest.mark.parametrize("said", [True, False])
def test_data_parallel_runs_on_the_mesh_of_the_parameters(shape, said, compilations):
    want, mesh = parallel(None), mesh_of(shape)
    with jax.set_mesh(mesh):
        got = parallel(mesh, mesh if said else None, batch_axes="data")
    assert_equal(got, want)
    assert got[0]["z"].sharding.spec == P("model", "data")


def test_data_parallel_refuses_meshes_that_do_not_go_together():
    mesh, other = mesh_of(FSDP), mesh_of((2,), ("d",), (AxisType.Explicit,))
    w, x = place(jnp.ones(4), P("data"), mesh), np.ones((4, 4))
    run = lsam.data_parallel(lambda w, v, x: w)
    with pytest.raises(ValueError, match=r"several meshes with explicit axes.*device_put"):
        run(w, place(jnp.ones(4), P("d"), other), x)
    with pytest.raises(ValueError, match="devices=4 are others: pass that mesh as devices"):
        lsam.data_parallel(lambda w, x: w, devices=4)(w, x)
    with pytest.raises(ValueError, match="batch_axes='rows' must be among the axes of the mesh"):
        lsam.data_parallel(lambda w, x: w, batch_axes="rows")(w, x)
