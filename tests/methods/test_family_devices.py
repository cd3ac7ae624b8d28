"""A method on several devices does what it does on one with the whole batch.

Those that are only other distances or directions stand for each other: GSAM for all of them.
"""

import functools

import contract
import jax
import numpy as np
import pytest
from contract import LOSSES, METHODS
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")
CORE = ("functional_sam", "ae_sam", "sl_sam")  # what the others do is in other core tests

STEPS = 3


def mesh():
    return Mesh(np.array(jax.devices()[:4]), ("batch",))


def run(step, place, tx, batches):
    params = place(contract.parameters())
    state = place(tx.init(params))
    for batch in batches:
        loss, direction, state = step(params, state, *batch)
        yield loss, direction, state


def batches():
    return [contract.batch(i, size=8) for i in range(STEPS)]


@functools.cache
def on_one(name):
    method = METHODS[name]
    tx = method()
    step = jax.jit(lsam.value_and_grad(LOSSES[method.loss], tx))
    return list(run(step, lambda tree: tree, tx, batches()))


def assert_equal(got, want):
    for some, other in zip(got, want, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (some, other)), strict=True):
            x, y = np.asarray(x), np.asarray(y)  # noqa: PLW2901
            tolerance = 1e-9 if x.dtype == np.float64 else 1e-6
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=1e-10)


ON_DEVICES = [
    "gsam",
    "layerwise_sam",
    "functional_sam",
    "look_sam",
    "layerwise_look_sam",
    "ae_sam",
    "momentum_sam",
    "esam",
    "adazo_sam",
    "sl_sam",
    "f_sam",
    "zsharp",
]


def rows(names):
    return [pytest.param(n, marks=pytest.mark.core if n in CORE else ()) for n in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", rows(ON_DEVICES))
def test_a_sharded_batch_under_jit(name):
    method = METHODS[name]
    tx = method()
    step = jax.jit(lsam.value_and_grad(LOSSES[method.loss], tx))
    rows, same = NamedSharding(mesh(), P("batch")), NamedSharding(mesh(), P())
    got = run(
        step,
        lambda tree: jax.device_put(tree, same),
        tx,
        [jax.device_put(batch, rows) for batch in batches()],
    )
    assert_equal(got, on_one(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", rows(name for name in ON_DEVICES if name != "esam"))
def test_shard_map(name):
    """ESAM chooses among the samples of each device: see test_parallel.py."""
    method = METHODS[name]
    alone, tx = method(), method.make(rho=0.1, axis_name="batch", **method.options)
    step = jax.jit(
        jax.shard_map(
            lsam.value_and_grad(LOSSES[method.loss], tx),
            mesh=mesh(),
            in_specs=(P(), P(), P("batch"), P("batch")),
            out_specs=P(),
        )
    )
    assert_equal(run(step, lambda tree: tree, alone, batches()), on_one(name))
