"""A data-parallel step does what the step does on one device, and is compiled once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from training import EXACT

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

STEPS, ROWS, RHO = 10, 16, 0.1
METHODS = {
    "sam": lambda: lsam.sam(RHO),
    "generalized_sam": lambda: lsam.generalized_sam(RHO, 0.8),
    "layerwise_sam": lambda: lsam.layerwise_sam(1, RHO, 0.8),
}


class Network(nn.Module):
    """BatchNorm and dropout between dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, param_dtype=jnp.float64)(x)
        x = nn.BatchNorm(use_running_average=False, momentum=0.9, param_dtype=jnp.float64)(x)
        x = nn.Dropout(0.3, deterministic=False)(nn.tanh(x))
        return nn.Dense(3, param_dtype=jnp.float64)(x)


def batch(step):
    rng = np.random.default_rng(step)
    return {"x": rng.normal(size=(ROWS, 4)), "y": rng.normal(size=(ROWS, 3))}


def problem(tx):
    """A train step, and what it starts from."""
    model, optimizer = Network(), optax.sgd(0.1, momentum=0.9)

    def loss(params, stats, key, batch):
        variables = {"params": params, "batch_stats": stats}
        out, new = model.apply(
            variables, batch["x"], mutable=["batch_stats"], rngs={"dropout": key}
        )
        return jnp.mean((out - batch["y"]) ** 2), new["batch_stats"]

    value_and_grad = lsam.value_and_grad(loss, tx, has_aux=True)

    def step(carry, key, batch):
        params, stats, sam, momentum = carry
        (value, stats), grads, sam = value_and_grad(params, sam, stats, key, batch)
        updates, momentum = optimizer.update(grads, momentum, params)
        new = optax.apply_updates(params, updates), stats, sam, momentum
        return new, {"loss": value, "grads": grads}

    variables = jax.jit(model.init)(jax.random.key(0), batch(0)["x"])
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
    params = variables["params"]
    return step, (params, variables["batch_stats"], tx.init(params), optimizer.init(params))


def train(step, carry):
    """Every step's state and results, as NumPy arrays."""
    for i in range(STEPS):
        carry, results = step(carry, jax.random.key(i), batch(i))
        yield jax.tree.map(np.asarray, (carry, results))


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, x), y in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert x.dtype == y.dtype
        where = jax.tree_util.keystr(path)
        if x.dtype.kind != "f":
            np.testing.assert_array_equal(x, y, err_msg=where)
        else:  # what methods remember of norms is float32
            rounding = EXACT if x.dtype == np.float64 else 1e-6
            np.testing.assert_allclose(x, y, rtol=rounding, atol=rounding, err_msg=where)


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    jax.config.update("jax_enable_x64", True)
    step, carry = problem(METHODS[request.param]())
    return step, carry, list(train(jax.jit(step), carry))


@pytest.mark.parametrize(
    ("method", "devices"),
    [*((name, 8) for name in METHODS), *(("layerwise_sam", n) for n in (1, 2, 4))],
    indirect=["method"],
)
def test_devices_do_what_one_does(method, devices):
    """Loss, gradients, parameters, statistics, and the whole state, norms and selection too."""
    step, carry, want = method
    parallel = lsam.data_parallel(step, devices=devices)
    assert parallel.mesh.devices.tolist() == jax.devices()[:devices]
    assert_equal(list(train(parallel, carry)), want)


def test_statistics_and_masks_are_those_of_the_whole_batch():
    """By hand: an average over all rows, and one dropout mask over all rows."""

    def step(scale, key, x):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return x.mean(0), kept, ((x - x.mean(0)) / x.std(0) * kept).sum() * scale

    x = np.random.default_rng(0).normal(size=(16, 3))
    x[8:] += 5  # the halves are not alike
    mean, kept, total = lsam.data_parallel(step, devices=8)(2.0, jax.random.key(3), x)
    mask = np.asarray(jax.random.bernoulli(jax.random.key(3), 0.5, x.shape))
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(total, 2 * ((x - x.mean(0)) / x.std(0) * mask).sum(), rtol=1e-10)


def spread(carry, mesh):
    """Parameters over the devices, as FSDP has them; the rest of a state as it is."""
    size = mesh.size

    def place(x):
        axis = next((i for i, n in enumerate(x.shape) if n % size == 0), None)
        spec = P() if axis is None else P(*[None] * axis, "batch")
        return jax.device_put(x, NamedSharding(mesh, spec))

    params, stats, sam, momentum = carry
    return jax.tree.map(place, params), stats, sam, jax.tree.map(place, momentum)


@pytest.mark.parametrize("donated", [(), (0,)])
@pytest.mark.parametrize("lies", ["replicated", "spread"])
@pytest.mark.parametrize("method", ["layerwise_sam"], indirect=True)
@pytest.mark.core
def test_one_program_and_results_that_lie_as_their_arguments(method, lies, donated, compilations):
    step, carry, want = method
    traces = []

    def traced(*args):
        traces.append(1)
        return step(*args)

    parallel = lsam.data_parallel(traced, devices=4, donate_argnums=donated)
    carry = jax.tree.map(jnp.copy, carry)
    carry = spread(carry, parallel.mesh) if lies == "spread" else carry
    keys, batches = [jax.random.key(i) for i in range(4)], [batch(i) for i in range(4)]
    carry, _ = parallel(carry, keys[0], batches[0])
    places = jax.tree.map(lambda x: x.sharding, carry)
    over = [x.spec for x in jax.tree.leaves(places[0]) if not x.is_fully_replicated]
    assert len(over) == (5 if lies == "spread" else 0)  # all but the last bias, of 3
    compiled = compilations.count
    for i in (1, 2, 3):
        carry, results = parallel(carry, keys[i], batches[i])
        assert jax.tree.map(lambda x: x.sharding, carry) == places
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(results))
    assert compilations.count == compiled
    assert len(traces) == 1
    assert_equal(jax.tree.map(np.asarray, (carry, results)), want[3])


def test_what_is_placed_stays_where_it_is():
    parallel = lsam.data_parallel(lambda w, x: (w, x), devices=4)
    w, x = parallel.replicate(jnp.ones(3)), parallel.shard({"x": np.ones((8, 2)), "n": 3})
    assert w.sharding.is_fully_replicated
    assert [s.data.shape for s in x["x"].addressable_shards] == [(2, 2)] * 4
    assert x["n"] == 3
    assert parallel.replicate(w) is w
    assert parallel.replicate(x["x"]) is x["x"]
    assert parallel.shard(x)["x"] is x["x"]
    with jax.transfer_guard("disallow"):
        parallel(w, {"x": x["x"]})
    donating = lsam.data_parallel(lambda w, x: w + 1, devices=4, donate_argnums=0)
    donating(w, x["x"])
    assert w.is_deleted()


def test_scalars_and_keys_of_a_batch_are_everywhere():
    def step(w, batch):
        return jax.random.normal(batch["key"]) * batch["scale"] + batch["x"].sum()

    batch = {"x": np.ones((4, 2)), "scale": np.float64(2), "key": jax.random.key(1)}
    got = lsam.data_parallel(step, devices=4)(0.0, batch)
    np.testing.assert_allclose(got, jax.random.normal(jax.random.key(1)) * 2 + 8, rtol=1e-12)
    several = {**batch, "x": np.ones((8, 2)), "key": jax.random.split(jax.random.key(1), 3)}
    placed = lsam.data_parallel(step, devices=4).shard(several)
    assert placed["key"].sharding.is_fully_replicated


def test_any_arguments_can_be_batches():
    def step(x, scale, y):
        return (x * y).sum() * scale

    x, y = np.arange(8.0), np.ones(8)
    for argnums in [(0, 2), (0, -1), [-3, -1]]:
        parallel = lsam.data_parallel(step, devices=2, batch_argnums=argnums)
        assert parallel(x, 0.5, y) == 14
        assert "num_partitions = 2" in parallel.lower(x, 0.5, y).as_text()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"devices": 9}, ValueError, 'devices=9 is more than the 8.*"jax_num_cpu_devices", 9'),
        ({"devices": 0}, ValueError, "devices=0 must be at least 1"),
        ({"devices": -1}, ValueError, "devices=-1 must be at least 1"),
        ({"devices": []}, ValueError, r"devices=\[\]"),
        ({"devices": 1.5}, TypeError, "devices=1.5 must be a number of devices, a sequence"),
        ({"devices": "cpu"}, TypeError, r"devices='cpu' must be.*jax.devices\(\"cpu\"\)"),
        ({"devices": ["cpu"]}, TypeError, r"devices=\['cpu'\] must be"),
        ({"batch_argnums": "x"}, TypeError, "batch_argnums='x' must be an integer"),
        ({"batch_argnums": 2}, ValueError, "batch_argnums=2 is none of the 2 arguments"),
        ({"batch_argnums": -3}, ValueError, "batch_argnums=-3 is none of the 2 arguments"),
        (
            {"devices": 4},
            ValueError,
            r"batch\['x'\] has 6 rows.*evenly to 4 devices; drop the rest of 2, or pad.*mask",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(options, error, words):
    def step(w, batch):
        raise AssertionError("traced")

    with pytest.raises(error, match=words):
        lsam.data_parallel(step, **options)(np.ones(3), {"x": np.ones((6, 2))})


def test_a_device_counts_once():
    with pytest.raises(ValueError, match="must name each device once"):
        lsam.data_parallel(lambda x: x, devices=jax.devices()[:1] * 2)
