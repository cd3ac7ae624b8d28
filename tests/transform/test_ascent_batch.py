"""The ascent gradient of a part of the batch, against a textbook; and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from counting import flops
from samples import ORDER, RHO, ROWS, every, loss, losses, network
from training import assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")


GRADIENT = jax.jit(jax.value_and_grad(loss, has_aux=True))


def textbook_step(params, part, batch, chosen, alpha=1.0, scaled=False):
    """Loss of the second pass and the direction, by two gradients; all in `chosen` normalised."""
    (clean, _), g = GRADIENT(params, part)
    t = {n: jnp.abs(w) + 0.01 if scaled and w.ndim > 1 else 1.0 for n, w in params.items()}
    size = np.sqrt(sum(float(jnp.sum((t[n] * g[n]) ** 2)) for n in chosen))
    there = {n: w + RHO * t[n] ** 2 * g[n] / size if n in chosen else w for n, w in params.items()}
    (value, aux), h = GRADIENT(there, batch)
    mixed = {n: (1 - alpha) * g[n] + alpha * h[n] if n in chosen else h[n] for n in h}
    return (value, aux), mixed, h, value - clean


def everything(params, norms):
    return set(params)


def largest(params, norms):
    return textbook.choose(norms, 1, ORDER)


METHODS = {
    "sam": (lsam.sam(RHO), everything, {}),
    "layerwise_sam": (lsam.layerwise_sam(1, RHO, normalize=True), largest, {}),
    "layerwise_sam, cuts": (lsam.layerwise_sam(1, RHO, normalize=True, cuts=3), largest, {}),
    "generalized_sam": (lsam.generalized_sam(RHO, 0.7), everything, {"alpha": 0.7}),
    "asam": (lsam.asam(RHO), everything, {"scaled": True}),
    "look_sam": (lsam.look_sam(RHO, every=1), everything, {}),
}


def plain_step(tx, **options):
    return lsam.value_and_grad(loss, tx, has_aux=True, ascent_batch=1 / 4, **options)


def chained(tx):
    """The same in a chain."""
    optimizer = optax.chain(tx, optax.identity())

    def step(params, state, batch):
        updates, (state, _) = optimizer.update(
            None,
            (state, optax.EmptyState()),
            params,
            value_fn=lambda p: loss(p, batch)[0],
            ascent_fn=lambda p: loss(p, every(batch, 4))[0],
        )
        return None, updates, state

    return step


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain_step, chained])
@pytest.mark.parametrize("name", METHODS)
def test_trains_like_the_textbook(name, make):
    tx, choose, options = METHODS[name]
    params, batches = network()
    step, state = jax.jit(make(tx)), tx.init(params)
    norms = dict.fromkeys(ORDER, 0.0)
    for batch in 5 * batches:
        chosen = choose(params, norms)
        out, direction, state = step(params, state, batch)
        want, mixed, h, rise = textbook_step(params, every(batch, 4), batch, chosen, **options)
        if out is not None:
            assert_same(out, want)
        assert_same(direction, mixed)
        assert abs(float(state.sharpness) - float(rise)) < 1e-6
        params = {n: w - 0.1 * mixed[n] for n, w in params.items()}
        norms = {n: float(jnp.linalg.norm(h[n])) for n in ORDER}


@pytest.mark.slow
@pytest.mark.parametrize("whole", [1.0, ROWS])
@pytest.mark.parametrize("name", METHODS)
def test_a_part_that_is_the_whole_is_the_method(name, whole):
    tx, _, _ = METHODS[name]
    params, (batch, *_) = network()
    by_part = lsam.value_and_grad(loss, tx, has_aux=True, ascent_batch=whole)
    got, want = (
        jax.jit(step)(params, tx.init(params), batch)
        for step in (by_part, lsam.value_and_grad(loss, tx, has_aux=True))
    )
    assert_same(got, want, 0)


@pytest.mark.slow
@pytest.mark.core
def test_which_samples():
    params, (batch, *_) = network()
    batch["id"] = jnp.arange(ROWS)

    def with_ids(params, batch):
        return loss(params, batch)[0], batch["id"]

    def samples(*counts, part=1 / 4, **options):
        tx = lsam.sam(RHO)
        step = lsam.value_and_grad(with_ids, tx, True, ascent_batch=part, clean_aux=True, **options)
        step, state = jax.jit(step), tx.init(params)
        for count in counts:
            at = state._replace(count=jnp.asarray(count, jnp.int32))
            yield step(params, at, batch)[0][1].tolist()

    assert [*samples(3)] == [[0, 4, 8, 12]]
    assert [*samples(3, part=3 / 8)] == [*samples(3, part=6)] == [[0, 1, 2, 8, 9, 10]]
    assert [*samples(5, ascent_samples="rotating")] == [[1, 5, 9, 13]]
    assert [*samples(3, part=3 / 8, ascent_samples="rotating")] == [[1, 2, 3, 9, 10, 11]]
    assert [*samples(3, ascent_samples="first")] == [[0, 1, 2, 3]]
    drawn = [*samples(*range(20), ascent_samples=jax.random.key(1))]
    assert all([i // 4 for i in ids] == [0, 1, 2, 3] for ids in drawn)
    assert {ids[0] for ids in drawn} == {0, 1, 2, 3}
    assert [drawn[3]] == [*samples(3, ascent_samples=jax.random.key(1))]
    (twice,) = samples(3, part=1 / 2, ascent_samples=jax.random.key(1))
    assert len(set(twice)) == 8  # none is taken twice


def test_aux_of_the_clean_part():
    params, (batch, *_) = network()
    tx = lsam.sam(RHO)
    (value, aux), _, _ = jax.jit(plain_step(tx, clean_aux=True))(params, tx.init(params), batch)
    assert_same(aux, jnp.mean(every(batch, 4)["x"]))
    assert_same(value, textbook_step(params, every(batch, 4), batch, set(params))[0][0])


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("name", ["sam", "layerwise_sam", "generalized_sam"])
def test_devices_take_the_samples_that_one_takes(name, devices):
    tx, _, _ = METHODS[name]
    params, (batch, *_) = network()
    want = jax.jit(plain_step(tx))(params, tx.init(params), batch)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("d",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    compiled = jax.jit(plain_step(tx)).lower(
        params, tx.init(params), jax.device_put(batch, rows)
    ).compile()  # fmt: skip
    assert_same(compiled(params, tx.init(params), jax.device_put(batch, rows))[1:], want[1:])
    moved = [word for word in ("all-gather", "collective-permute", "all-to-all")
             if word in compiled.as_text()]  # fmt: skip
    assert not moved  # no rows move

    apart = tx.method._replace(axes=lsam.sam(RHO, axis_name="d").method.axes)
    of_device = type(tx)(type(tx.init)(apart), type(tx.update)(apart))
    spec = jax.sharding.PartitionSpec
    for check_vma in (True, False):
        step = jax.shard_map(
            lambda p, s, b: plain_step(of_device)(p, s, b)[1:],
            mesh=mesh, in_specs=(spec(), spec(), spec("d")), out_specs=spec(), check_vma=check_vma,
        )  # fmt: skip
        assert_same(jax.jit(step)(params, tx.init(params), batch), want[1:])


@pytest.mark.core
def test_a_batch_of_explicit_sharding():
    params, (batch, *_) = network()
    axis = jax.sharding.AxisType.Explicit
    mesh = jax.make_mesh((4,), ("d",), axis_types=(axis,), devices=jax.devices()[:4])
    spec = jax.sharding.PartitionSpec
    tx = lsam.layerwise_sam(1, RHO, normalize=True)
    rows = {"x": batch["x"]}

    def mean(params, batch):
        return jnp.mean(jnp.tanh(batch["x"] @ params["z_in/w"]) ** 2)

    for samples in ("even", "rotating"):
        step = lsam.value_and_grad(mean, tx, ascent_batch=1 / 4, ascent_samples=samples)
        want = jax.jit(step)(params, tx.init(params), rows)
        with jax.set_mesh(mesh):
            laid = jax.device_put(params, jax.sharding.NamedSharding(mesh, spec()))
            dealt = jax.device_put(rows, jax.sharding.NamedSharding(mesh, spec("d")))
            assert_same(jax.jit(step)(laid, tx.init(laid), dealt), want)


def test_losses_in_parts_and_several_batch_arguments():
    params, (batch, *_) = network()
    tx = lsam.sam(RHO)
    want = textbook_step(params, every(batch, 4), batch, set(params))[1]

    def two_arguments(params, x, y):
        return jnp.mean(losses(params, {"x": x, "y": y}))

    step = lsam.value_and_grad(two_arguments, tx, ascent_batch=1 / 4, batch_argnums=(1, 2))
    assert_same(jax.jit(step)(params, tx.init(params), batch["x"], batch["y"])[1], want)
    split = lsam.split_loss(losses, lambda out, batch: jnp.mean(out))
    for apart in (split, lsam.per_sample(losses)):
        step = lsam.value_and_grad(apart, tx, ascent_batch=1 / 4)
        assert_same(jax.jit(step)(params, tx.init(params), batch)[1], want)


def test_weights_of_samples_count_within_the_part():
    """Padding: rows of weight 0, wherever they are."""
    params, (batch, *_) = network()
    tx, weight = lsam.sam(RHO), jnp.arange(ROWS) < 13

    def weighted(params, batch, weight):
        return jnp.sum(losses(params, batch) * weight) / jnp.sum(weight)

    step = lsam.value_and_grad(weighted, tx, ascent_batch=1 / 4, batch_argnums=(1, 2))
    got = jax.jit(step)(params, tx.init(params), batch, weight)[1]
    gradient = jax.jit(jax.grad(weighted))
    g = gradient(params, every(batch, 4), weight[::4])
    size = jnp.sqrt(sum(jnp.sum(x**2) for x in g.values()))
    there = {n: w + RHO * g[n] / size for n, w in params.items()}
    assert_same(got, gradient(there, batch, weight))


def test_what_it_costs():
    """1 + q, and 1 + q (forward, and backward to the first layer) for fixed ones; as XLA counts."""
    width, rows = 64, 2048
    params = {f"w{n}": jnp.ones((width, width), jnp.float32) for n in range(4)}
    x = jnp.ones((rows, width), jnp.float32)

    def mean(params, x):
        for w in params.values():
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    def cost(tx, **options):
        step = lsam.value_and_grad(mean, tx, **options)
        return flops(step, params, tx.init(params), x)

    plain = flops(jax.value_and_grad(mean), params, x)
    assert cost(lsam.sam(RHO), ascent_batch=1 / 8) / plain == pytest.approx(1.125, rel=0.02)
    product = 2 * rows * width**2  # 4 forward, 4 weight gradients, 3 backward
    for first in range(4):
        last = 3 - first  # error propagations from the output to it
        tx = lsam.layerwise_sam(None, RHO, selection=[f"w{first}"])
        want = 11 * product + (4 + last + 1) * product / 8
        assert cost(tx, ascent_batch=1 / 8) / want == pytest.approx(1, rel=0.02)


REFUSED = [
    (0, ValueError, "ascent_batch must be a share above 0"),
    (0.0, ValueError, "ascent_batch must be a share above 0"),
    (1.5, ValueError, "ascent_batch must be a share above 0"),
    (True, TypeError, "a share of the batch such as 1/8"),
    ("1/8", TypeError, "a share of the batch such as 1/8"),
    (1 / 3, ValueError, "of 16 samples is 5.33"),
    (17, ValueError, "more than the 16 samples"),
]


@pytest.mark.parametrize(("size", "error", "words"), REFUSED)
def test_sizes_that_are_refused(size, error, words):
    params, (batch, *_) = network()
    tx = lsam.sam(RHO)
    with pytest.raises(error, match=words):
        lsam.value_and_grad(loss, tx, has_aux=True, ascent_batch=size)(
            params, tx.init(params), batch
        )


def test_batches_that_are_refused():
    params, (batch, *_) = network()
    tx, state = lsam.sam(RHO), lsam.sam(RHO).init(params)
    step = plain_step(tx)
    with pytest.raises(ValueError, match=r"argument 1\['scale'\] .* has shape \(\)"):
        step(params, state, {**batch, "scale": 2.0})
    with pytest.raises(ValueError, match=r"\['x'\] has 16, .*\['y'\] has 8"):
        step(params, state, {**batch, "y": batch["y"][:8]})
    with pytest.raises(ValueError, match="batch_argnums=2 is beyond"):
        plain_step(tx, batch_argnums=2)(params, state, batch)
    with pytest.raises(ValueError, match="ascent_samples must be"):
        plain_step(tx, ascent_samples="some")
    with pytest.raises(ValueError, match="choose one of the two"):
        plain_step(tx, m=4)


@pytest.mark.parametrize(
    "tx", [lsam.momentum_sam(RHO), lsam.functional_sam(RHO), lsam.esam(), lsam.gam(), lsam.ae_sam()]
)
def test_methods_that_are_refused(tx):
    params, (batch, *_) = network()
    with pytest.raises(ValueError, match=r"ascent_batch .* makes no sense for this method"):
        plain_step(tx)
    with pytest.raises(ValueError, match=r"ascent_batch .* makes no sense for this method"):
        of = lambda p: loss(p, batch)[0]  # noqa: E731
        tx.update(None, tx.init(params), params, value_fn=of, ascent_fn=of)


def test_ascent_fn_stands_beside_value_fn():
    params, (batch, *_) = network()
    tx = lsam.sam(RHO)
    for other in ({}, {"grad_fn": jax.grad(lambda p: loss(p, batch)[0])}):
        with pytest.raises(ValueError, match="ascent_fn is the loss on a part"):
            tx.update(params, tx.init(params), params, ascent_fn=lambda p: 0.0, **other)


@pytest.mark.slow
def test_a_budget_counts_the_part():
    """A fifth of a gradient affords every layer on an eighth, and none on the whole batch."""
    params, (batch, *_) = network()
    tx = lsam.layerwise_sam(None, RHO, selection=lsam.budget(0.2, "all"))
    step = lsam.value_and_grad(loss, tx, has_aux=True, ascent_batch=1 / 8)
    assert step(params, tx.init(params), batch)[2].selected.all()
    with pytest.raises(ValueError, match="affords no layer"):
        lsam.value_and_grad(loss, tx, has_aux=True)(params, tx.init(params), batch)


def test_rotating_samples_of_a_restored_state_and_of_a_batch_that_is_no_argument():
    x, tx, w = np.arange(8.0), lsam.sam(RHO), jnp.ones(1)
    step = lsam.value_and_grad(
        lambda w, x: (w[0] * jnp.sum(x), x), tx, True,
        ascent_batch=1 / 4, ascent_samples="rotating", clean_aux=True,
    )  # fmt: skip
    state = tx.init(w)._replace(count=np.int32(1))
    assert step(w, state, x)[0][1].tolist() == [1, 5]
    assert jax.jit(lambda w, s: step(w, s, x)[0][1])(w, state).tolist() == [1, 5]
