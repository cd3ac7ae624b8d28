"""On several devices a step is that of one device with the whole batch, however it is mapped."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from on_devices import (
    AXIS,
    MAPPED,
    batch,
    loss,
    mapped,
    mesh,
    on_one,
    parameters,
    sharded,
    single,
    train,
)
from training import assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

METHODS = {
    "sam": functools.partial(lsam.sam, 0.1),
    "generalized_sam": functools.partial(lsam.generalized_sam, 0.1, 0.8),
    "layerwise_sam": functools.partial(lsam.layerwise_sam, 2, 0.3, 0.8),
    "ascent": functools.partial(lsam.layerwise_sam, 2, 0.3, 0.0),
}
LAYERWISE = METHODS["layerwise_sam"]
KINDS = ["jit", *MAPPED]
# Each method on four devices, and layer-wise SAM, of which the others are cases, on any number.
GRID = [
    *itertools.product(["sam", "generalized_sam"], KINDS, [4]),
    *(pytest.param("layerwise_sam", kind, 4, marks=pytest.mark.core) for kind in KINDS),
    *itertools.product(["layerwise_sam"], KINDS, [8]),
    *(pytest.param("layerwise_sam", k, n, marks=pytest.mark.slow) for k in KINDS for n in (1, 2)),
]


@pytest.mark.parametrize(("name", "kind", "devices"), GRID)
def test_equals_one_device(name, kind, devices):
    """Loss, aux, direction, parameters and state, over ten steps."""
    assert_equals_one_device(name, kind, devices)


@pytest.mark.parametrize("kind", MAPPED)
def test_the_ascent_gradient_equals_that_of_one_device(kind):
    """With alpha = 0 it is the direction of the selected layers."""
    assert_equals_one_device("ascent", kind, 4)


def assert_equals_one_device(name, kind, devices):
    make = METHODS[name]
    tx = make() if kind == "jit" else make(axis_name=AXIS)
    step = sharded(tx, devices) if kind == "jit" else mapped(kind, single(tx), devices)
    for got, want in zip(train(step, tx), on_one(name, make), strict=True):
        assert_same(got, want)


def test_the_run_takes_different_branches():
    """Or the equality above would say little."""
    chosen = {tuple(state.selected.tolist()) for _, _, _, state, _ in on_one("l", LAYERWISE)}
    assert len(chosen) > 1


@pytest.mark.core
@pytest.mark.parametrize("kind", MAPPED)
def test_a_loss_that_averages_itself(kind):
    """Whether the loss is averaged already makes no difference."""

    def averaged(params, x, y):
        value, aux = loss(params, x, y)
        return jax.lax.pmean(value, AXIS), aux

    tx = LAYERWISE(axis_name=AXIS)
    step = mapped(kind, single(tx, averaged), 4)
    for got, want in zip(train(step, tx, steps=3), on_one("layerwise_sam", LAYERWISE)):
        assert_same(got, want)


@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
@pytest.mark.parametrize("kind", MAPPED)
def test_in_a_chain(kind, face):
    """The gradient handed to `update` is what `jax.grad` gives there: local, or summed."""

    def step_with(tx):
        chain = optax.chain(tx, optax.sgd(0.1))

        def step(params, state, x, y):
            def of(params):
                return loss(params, x, y)[0]

            updates, new = chain.update(
                jax.grad(of)(params),
                (state, *chain.init(params)[1:]),
                params,
                **{face: of if face == "value_fn" else jax.grad(of)},
            )
            return (), (updates, new[0])

        return step

    tx, alone = LAYERWISE(axis_name=AXIS), LAYERWISE()
    step, one = mapped(kind, step_with(tx), 4), jax.jit(step_with(alone))
    params, state = parameters(), alone.init(parameters())
    for count in range(4):
        _, got = step(params, state, *batch(count))
        _, want = one(params, state, *batch(count))
        assert_same(got, want)
        params, state = optax.apply_updates(params, want[0]), want[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAPPED)
def test_samples_that_are_dropped_on_each_device(kind):
    """ESAM takes the worst half of each device's own samples."""
    tx = lsam.esam(0.1, beta=1.0, gamma=0.5, axis_name=AXIS)

    def losses(params, x, y):
        return jax.vmap(lambda x, y: loss(params, x, y)[0])(x, y)

    step = lsam.value_and_grad(lsam.per_sample(losses, argnums=(1, 2)), tx)

    def with_aux(params, state, x, y):
        return (), step(params, state, x, y)

    params, (x, y) = parameters(), batch(0)
    _, (_, got, _) = mapped(kind, with_aux, 4)(params, tx.init(params), x, y)
    g = jax.grad(lambda p: loss(p, x, y)[0])(params)
    norm = np.sqrt(sum(np.sum(np.square(d)) for d in jax.tree.leaves(g)))
    moved = jax.tree.map(lambda w, d: w + 0.1 / norm * d, params, g)
    rise = np.asarray(losses(moved, x, y) - losses(params, x, y)).reshape(4, -1)
    worst = np.argsort(-rise, axis=1)[:, :2] + 4 * np.arange(4)[:, None]
    want = jax.grad(lambda p: losses(p, x[worst.ravel()], y[worst.ravel()]).mean())(moved)
    assert_same(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["global", "replica"])
@pytest.mark.parametrize("kind", ["checked", "unchecked"])
def test_stacked_layers(kind, sync):
    """The scan is split on every device; replicas are the mean of the devices' own steps."""

    def scanned(params, x, y):
        def block(x, w):
            return jnp.tanh(x @ w), ()

        out = jax.lax.scan(block, x, params["blocks"])[0] @ params["head"]
        return jnp.mean((out - y) ** 2), out

    rng = np.random.default_rng(0)
    params = {"blocks": rng.normal(size=(4, 3, 3)) / 2, "head": rng.normal(size=(3, 2))}
    params = jax.tree.map(jnp.asarray, params)
    options = {"k": 2, "rho": 0.3, "alpha": 0.8, "layers": lsam.stacked("blocks")}
    tx = lsam.layerwise_sam(axis_name=AXIS, perturbation_sync=sync, **options)
    alone = lsam.layerwise_sam(**options)
    step, one = mapped(kind, single(tx, scanned), 4), jax.jit(single(alone, scanned))
    state = alone.init(params)
    for count in range(3):
        parts = [jnp.split(x, 4 if sync == "replica" else 1) for x in batch(count)]
        each = [one(params, state, *part)[1][:2] for part in zip(*parts)]
        want = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *each)
        _, (value, grads, state, params) = step(params, state, *batch(count))
        assert_same((value, grads), want)


def test_refuses_an_axis_that_is_not_there():
    tx = LAYERWISE(axis_name="nowhere")
    params = parameters()
    with pytest.raises(ValueError, match=r"axis_name='nowhere' is no axis here.*leave axis_name"):
        jax.jit(single(tx))(params, tx.init(params), *batch(0))


@pytest.mark.core
def test_refuses_gradients_that_jax_would_sum():
    """The trap of `shard_map`: without axis_name, the gradient would be four times the mean."""
    tx = LAYERWISE()
    params = parameters()
    message = "axis 'batch'.*Pass axis_name='batch' to the method, or return lax.pmean"
    with pytest.raises(ValueError, match=message):
        mapped("checked", single(tx), 4)(params, tx.init(params), *batch(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"perturbation_sync": "replica"}, ValueError, "perturbation_sync='replica' needs axis_na"),
        ({"axis_name": 3}, TypeError, "axis_name=3"),
        ({"axis_name": ("a", 3)}, TypeError, r"axis_name=\('a', 3\)"),
        ({"axis_name": "a", "perturbation_sync": None}, TypeError, "perturbation_sync=None"),
        ({"axis_name": "a", "perturbation_sync": True}, TypeError, "perturbation_sync=True"),
        ({"axis_name": "a", "perturbation_sync": 0}, ValueError, "perturbation_sync=0"),
        ({"axis_name": ("a", "b"), "perturbation_sync": 2}, ValueError, "along one axis"),
        ({"axis_name": "a", "perturbation_sync": "b"}, ValueError, "perturbation_sync='b'.*'a'"),
    ],
)
@pytest.mark.parametrize("make", [LAYERWISE, lsam.sam, lsam.look_sam, lsam.sl_sam, lsam.gsam])
def test_refuses_arguments(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


def test_refuses_masks_that_would_differ():
    with pytest.raises(ValueError, match="perturbation_sync='replica' with dynamic=True"):
        lsam.sparse_sam(dynamic=True, axis_name=AXIS, perturbation_sync="replica")


def test_refuses_groups_of_unequal_size():
    tx = lsam.sam(axis_name=AXIS, perturbation_sync=3)
    params = parameters()
    with pytest.raises(ValueError, match="perturbation_sync=3 does not divide the 4 devices"):
        mapped("checked", single(tx), 4)(params, tx.init(params), *batch(0))


@pytest.mark.parametrize("axes", [("hosts", "chips"), ["chips", "hosts"]])
def test_an_average_over_two_axes(axes):
    tx = LAYERWISE(axis_name=axes)
    rows = P(("hosts", "chips"))
    step = jax.jit(
        jax.shard_map(
            single(tx),
            mesh=mesh(4, ("hosts", "chips"), (2, 2)),
            in_specs=(P(), P(), rows, rows),
            out_specs=(rows, P()),
        )
    )
    for got, want in zip(train(step, tx, steps=3), on_one("layerwise_sam", LAYERWISE)):
        assert_same(got, want)
