"""Devices that perturb apart: the mean of independent steps, all selecting by the same norms."""

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from on_devices import AXIS, LR, MAPPED, batch, loss, mapped, mesh, parameters, single, train
from training import assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

METHODS = {
    "sam": functools.partial(lsam.sam, 0.1),
    "generalized_sam": functools.partial(lsam.generalized_sam, 0.1, 0.8),
    "layerwise_sam": functools.partial(lsam.layerwise_sam, 2, 0.3, 0.8),
}
DEVICES = 4
LAYERWISE_IS_CORE = [
    "sam",
    "generalized_sam",
    pytest.param("layerwise_sam", marks=pytest.mark.core),
]


def mean(trees):
    """The mean of numbers; of flags and counts the first, after a check that all are the same."""

    def one(*leaves):
        if jnp.issubdtype(leaves[0].dtype, jnp.floating):
            return (sum(leaves[1:], leaves[0]) / len(leaves)).astype(leaves[0].dtype)
        assert all(np.array_equal(x, leaves[0]) for x in leaves)
        return leaves[0]

    return jax.tree.map(one, *trees)


@functools.cache
def apart(name, parts, steps):
    """The steps of a method on each part of the batch alone, with the mean of what they give."""
    tx = METHODS[name]()
    step = jax.jit(single(tx))
    params, state, out = parameters(), tx.init(parameters()), []
    for count in range(steps):
        rows = [jnp.split(x, parts) for x in batch(count)]
        each = [step(params, state, *part) for part in zip(*rows)]
        aux = jnp.concatenate([a for a, _ in each])
        value, grads, state, _ = mean([rest for _, rest in each])
        params = jax.tree.map(lambda w, g: w - LR * g, params, grads)
        out.append((aux, value, grads, state, params))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAPPED)
@pytest.mark.parametrize("name", LAYERWISE_IS_CORE)
def test_replicas(name, kind):
    tx = METHODS[name](axis_name=AXIS, perturbation_sync="replica")
    got = train(mapped(kind, single(tx), DEVICES), tx)
    for some, want in zip(got, apart(name, DEVICES, 10), strict=True):
        assert_same(some, want)


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.parametrize("kind", MAPPED)
def test_groups(kind):
    """Two groups of two neighbours."""
    tx = METHODS["layerwise_sam"](axis_name=AXIS, perturbation_sync=2)
    got = train(mapped(kind, single(tx), DEVICES), tx, steps=5)
    for some, want in zip(got, apart("layerwise_sam", 2, 5), strict=True):
        assert_same(some, want)


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.parametrize("check", [True, False])
def test_groups_that_are_an_axis(check):
    """Two hosts of two chips; the chips of a host share a perturbation."""
    tx = METHODS["layerwise_sam"](axis_name=("hosts", "chips"), perturbation_sync="chips")
    rows = P(("hosts", "chips"))
    step = jax.shard_map(
        single(tx),
        mesh=mesh(DEVICES, ("hosts", "chips"), (2, 2)),
        in_specs=(P(), P(), rows, rows),
        out_specs=(rows, P()),
        check_vma=check,
    )
    got = train(jax.jit(step), tx, steps=5)
    for some, want in zip(got, apart("layerwise_sam", 2, 5), strict=True):
        assert_same(some, want)


@pytest.mark.slow
def test_one_group_is_global_and_groups_of_one_are_replicas():
    for size, sync in ((DEVICES, "global"), (1, "replica")):
        both = []
        for which in (size, sync):
            tx = METHODS["layerwise_sam"](axis_name=AXIS, perturbation_sync=which)
            both.append(list(train(mapped("unchecked", single(tx), DEVICES), tx, steps=3)))
        assert_same(*both)


@pytest.mark.parametrize("name", LAYERWISE_IS_CORE)
def test_micro_batches_on_one_device(name):
    tx = METHODS[name]()
    value_and_grad = lsam.value_and_grad(loss, tx, has_aux=True, m=4, batch_argnums=(1, 2))

    @jax.jit
    def step(params, state, x, y):
        (value, aux), grads, state = value_and_grad(params, state, x, y)
        moved = jax.tree.map(lambda w, g: w - LR * g, params, grads)
        return aux.reshape(-1, aux.shape[-1]), (value, grads, state, moved)

    for some, want in zip(train(step, tx), apart(name, 4, 10), strict=True):
        assert_same(some, want)


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["global", "replica"])
def test_micro_batches_on_several_devices(sync):
    """Two devices of two parts each; globally, part i of one device perturbs with part i of the
    other."""
    tx = METHODS["layerwise_sam"](axis_name=AXIS, perturbation_sync=sync)
    value_and_grad = lsam.value_and_grad(loss, tx, has_aux=True, m=4, batch_argnums=(1, 2))

    def step(params, state, x, y):
        (value, aux), grads, state = value_and_grad(params, state, x, y)
        return aux, (value, grads, state, params)

    def order(x):  # device 0 has parts 0 and 1; together are 0 with 2, and 1 with 3
        return x.reshape(2, 2, 4, -1).swapaxes(0, 1).reshape(x.shape)

    params, alone = parameters(), METHODS["layerwise_sam"]()
    got = mapped("unchecked", step, 2)(params, tx.init(params), *batch(0))[1][:3]
    parts = 2 if sync == "global" else 4
    x, y = map(order, batch(0)) if sync == "global" else batch(0)
    each = [
        jax.jit(single(alone))(params, alone.init(params), *rows)[1][:3]
        for rows in zip(jnp.split(x, parts), jnp.split(y, parts))
    ]
    assert_same(got, mean(each))
    with pytest.raises(ValueError, match=r"m=.* check_vma=False"):
        mapped("checked", step, 2)(params, tx.init(params), *batch(0))


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"m": 0}, 8, "m must be a number of samples, at least 1; got m=0"),
        ({"m": 2.0}, 8, "got m=2.0"),
        ({"m": 3}, 8, r"m=3 does not divide an array of shape \(8, 3\)"),
        ({"m": 2, "batch_argnums": 0}, 8, "batch_argnums=0"),
        ({"m": 2, "batch_argnums": 5}, 8, "batch_argnums=5 is beyond the 3 arguments"),
    ],
)
def test_refuses_micro_batches(options, size, message):
    tx = METHODS["sam"]()
    with pytest.raises(ValueError, match=message):
        step = lsam.value_and_grad(loss, tx, has_aux=True, **options)
        step(parameters(), tx.init(parameters()), *batch(0, size))


OTHERS = {
    "look_sam": 2,
    "momentum_sam": 2,
    "adazo_sam": 1,
    "stable_sam": 1,
    "gam": 1,
    "f_sam": 2,
    "vasso": 2,
    # The mean of the norms teaches their memories, so from the second step on they are not those
    # of devices alone.
    "ae_sam": 1,
    "sl_sam": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_methods(name):
    """Those with a memory, a cadence, other ascents, descents and combinations."""
    method = contract.METHODS[name]
    tx = method.make(rho=0.1, axis_name=AXIS, perturbation_sync="replica", **method.options)

    def step_of(tx):
        value_and_grad = lsam.value_and_grad(contract.loss, tx)
        return lambda params, state, *batch: ((), value_and_grad(params, state, *batch))

    on_all, alone = mapped("checked", step_of(tx), DEVICES), jax.jit(step_of(method()))
    params, state = contract.parameters(), tx.init(contract.parameters())
    for count in range(OTHERS[name]):
        rows = contract.batch(count, size=8)
        parts = zip(*(jnp.split(x, DEVICES) for x in rows))
        want = mean([alone(params, state, *part)[1] for part in parts])
        got = on_all(params, state, *rows)[1]
        state = got[2]
        if name in ("ae_sam", "sl_sam"):
            got, want = ((*all[:2], all[2]._replace(memory=())) for all in (got, want))
        assert_same(got, want)
