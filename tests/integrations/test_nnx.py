"""NNX: the model's loss as `value_fn`, and the engine on a model.

The oracle runs NNX's own `value_and_grad` twice, on copies of the model, with a mask between.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from counting import conditionals, flops
from flax import nnx
from nnx_resnet import ORDER, batches, cross_entropy, loss_fn, resnet
from training import LR, MOMENTUM, RHO, assert_same

import lsam_jax as lsam
from lsam_jax.integrations import nnx as lsam_nnx

K, ALPHA, STEPS = 2, 0.8, 5
core = pytest.mark.core
float64 = pytest.mark.usefixtures("x64")


def parts(model):
    """Parameters, and the rest as plain arrays: BatchNorm's statistics, dropout's streams."""
    params, rest = nnx.split(model, nnx.Param, ...)[1:]

    def as_array(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return params, jax.tree.map(as_array, rest)


def textbook_training(model):
    """Yields loss, logits, and the model's parts after each step of layer-wise SAM and SGD."""

    @jax.jit
    def value_and_grad(params, rest_and_batch):
        rest, batch = rest_and_batch
        copy = nnx.merge(graphdef, params, rest, copy=True)
        (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(copy, *batch)
        return (loss, (logits, nnx.state(copy, nnx.Not(nnx.Param)))), grads

    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    order = [f"{name}/value" for name in ORDER]
    norms, descend = dict.fromkeys(order, 0.0), textbook.Momentum(LR, MOMENTUM)
    for batch in batches(STEPS, dtype=jnp.float64):
        chosen = textbook.choose(norms, K, order)
        want = textbook.step(value_and_grad, params, (rest, batch), chosen, RHO, ALPHA)
        params, norms, (logits, rest) = descend(params, want.direction), want.norms, want.aux
        yield want.loss, logits, parts(nnx.merge(graphdef, params, rest, copy=True))


def test_layers_have_the_same_names_as_state_and_as_arrays():
    state = nnx.state(resnet(), nnx.Param)
    for params in (state, nnx.to_pure_dict(state)):
        assert set(lsam.layer_names(params)) == set(ORDER)


def by_engine(tx, traced):
    value_and_grad = lsam_nnx.value_and_grad(loss_fn, tx, has_aux=True)

    def start(model):
        return tx.init(nnx.state(model, nnx.Param)), optax.sgd(LR, momentum=MOMENTUM)

    @nnx.jit
    def step(model, optimizer, sam_state, x, y):
        traced.append(x)
        (loss, logits), grads, sam_state = value_and_grad(model, sam_state, x, y)
        optimizer.update(model, grads)
        return loss, logits, sam_state

    return start, step


def by_chain(tx, traced):
    def start(model):
        return None, optax.chain(tx, optax.sgd(LR, momentum=MOMENTUM))

    @nnx.jit
    def step(model, optimizer, nothing, x, y):
        traced.append(x)
        value_fn = lsam_nnx.make_value_fn(model, loss_fn, x, y=y)
        (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, x, y)
        optimizer.update(model, grads, value_fn=value_fn)
        return loss, logits, nothing

    return start, step


@pytest.mark.slow
@core
@float64
@pytest.mark.parametrize(
    ("face", "options"), [(by_engine, {}), (by_chain, {"cuts": 1, "gate": False})]
)
def test_trains_like_the_textbook(face, options):
    """Parameters, and the statistics and random streams that the clean pass leaves."""
    model, traced = resnet(dtype=jnp.float64), []
    start, step = face(lsam.layerwise_sam(K, RHO, ALPHA, **options), traced)
    state, base = start(model)
    optimizer = nnx.Optimizer(model, base, wrt=nnx.Param)
    expected = textbook_training(nnx.clone(model))
    data = batches(STEPS, dtype=jnp.float64)
    for batch, (loss, logits, after) in zip(data, expected, strict=True):
        got_loss, got_logits, state = step(model, optimizer, state, *batch)
        assert_same(got_loss, jnp.asarray(loss))
        assert_same(got_logits, logits)
        assert_same(parts(model), after)
    assert len(traced) == 1  # one compilation


@core
def test_without_aux_and_outside_of_jit():
    model, tx = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), lsam.sam(RHO)
    x = jnp.arange(12.0).reshape(4, 3)

    def loss_fn(model, x, shift):
        return jnp.mean((model(x) + shift) ** 2)

    value_and_grad = lsam_nnx.value_and_grad(loss_fn, tx)
    loss, grads, _ = value_and_grad(model, tx.init(nnx.state(model, nnx.Param)), x, shift=1.0)
    same = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    want, plain = nnx.value_and_grad(loss_fn)(same, x, 1.0)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(plain)
    assert_same(nnx.state(model), nnx.state(same))


@pytest.mark.parametrize("clean_aux", [False, True])
def test_a_part_of_the_batch(clean_aux):
    """The model is changed as by one pass: the second on the whole, or the clean one on a part."""
    tx, x = lsam.sam(RHO), jnp.arange(24.0).reshape(8, 3)

    def loss_fn(model, x):
        return jnp.mean((model(x) + 1) ** 2)

    def fresh():
        return nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    model, part, there = fresh(), fresh(), fresh()
    step = lsam_nnx.value_and_grad(loss_fn, tx, ascent_batch=1 / 2, clean_aux=clean_aux)
    loss, grads, _ = step(model, tx.init(nnx.state(model, nnx.Param)), x)
    g = nnx.grad(loss_fn)(part, x[::2])
    size = jnp.sqrt(sum(jnp.sum(d**2) for d in jax.tree.leaves(g)))
    weights = nnx.state(there, nnx.Param)
    nnx.update(there, jax.tree.map(lambda w, d: w + RHO * d / size, weights, g))
    want, h = nnx.value_and_grad(loss_fn)(there, x)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    for got, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(h), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    left = part if clean_aux else there
    assert_same(nnx.state(model, nnx.BatchStat), nnx.state(left, nnx.BatchStat))


def test_a_value_fn_leaves_the_model_alone():
    """And gives the same loss however often it is asked, dropout included."""
    model = resnet()
    value_fn = lsam_nnx.make_value_fn(model, loss_fn, *next(batches(1)))
    params, before = parts(model)
    first = value_fn(params)
    assert_same(parts(model), (params, before))
    assert first == loss_fn(model, *next(batches(1)))[0] == value_fn(params)


def test_only_what_wrt_says():
    """The rest is frozen, and does not come out of the passes: nothing copies a backbone."""
    shape, rank = (4, 5), 2
    backbone = nnx.Linear(*shape, use_bias=False, rngs=nnx.Rngs(0))
    model = nnx.LoRA(4, rank, 5, base_module=backbone, rngs=nnx.Rngs(1))
    tx = lsam.layerwise_sam(1, RHO, cuts=["lora_a", "lora_b"], gate=False)
    x = jnp.ones((3, 4))
    graphdef, adapters, rest = nnx.split(model, nnx.LoRAParam, ...)
    assert lsam.layer_names(adapters) == ("lora_a", "lora_b")

    def loss_fn(model, x):
        return jnp.mean(model(x) ** 2)

    def step(adapters, rest, state, x):
        model = nnx.merge(graphdef, adapters, rest, copy=True)
        return lsam_nnx.value_and_grad(loss_fn, tx, wrt=nnx.LoRAParam)(model, state, x)

    args = (adapters, rest, tx.init(adapters), x)
    _, grads, _ = step(*args)
    assert jax.tree.structure(grads) == jax.tree.structure(adapters)
    found = list(conditionals(jax.make_jaxpr(step)(*args).jaxpr))
    assert found
    assert not [v for conditional in found for v in conditional.outvars if v.aval.shape == shape]


def test_tx_is_no_chain():
    with pytest.raises(TypeError, match="tx must be what"):
        lsam_nnx.value_and_grad(loss_fn, optax.sgd(LR))


@pytest.mark.slow
def test_a_step_costs_its_floor():
    """A plain gradient, and a forward pass and the gradient of the selected from there on."""
    model, (x, y) = resnet(), next(batches(1))
    selected = ["block2/conv1/kernel", "a_head/kernel"]
    tx = lsam.layerwise_sam(None, RHO, selection=selected)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def plain(params, x, y):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return nnx.value_and_grad(loss_fn, has_aux=True)(model, x, y)

    def ours(params, sam_state, x, y):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return lsam_nnx.value_and_grad(loss_fn, tx, has_aux=True)(model, sam_state, x, y)

    by_name, kernels, others = nnx.split(model, lambda path, _: "/".join(path) in selected, ...)

    def suffix(kernels, hidden, y):
        model = nnx.merge(by_name, kernels, others, copy=True)
        return cross_entropy(model.from_block2(hidden), y)

    hidden = jax.eval_shape(lambda x: nnx.clone(model).before_block2(x), x)
    plain_cost = flops(plain, params, x, y)
    floor = plain_cost + flops(jax.value_and_grad(suffix), kernels, hidden, y)
    got = flops(ours, params, tx.init(params), x, y)
    assert got == pytest.approx(floor, rel=0.02)
    assert got < 1.9 * plain_cost


def test_what_parts_of_a_batch_change_is_averaged():
    model = nnx.Sequential(
        nnx.BatchNorm(4, momentum=0.5, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))
    )
    x = jnp.arange(32.0).reshape(8, 4)
    step = lsam_nnx.value_and_grad(lambda model, x: jnp.mean(model(x) ** 2), lsam.sam(), m=2)
    step(model, lsam.sam().init(nnx.state(model, nnx.Param)), x)
    mean, var = model.layers[0].mean[...], model.layers[0].var[...]
    np.testing.assert_allclose(mean, x.mean(0) / 2)  # from 0
    np.testing.assert_allclose(var, 0.5 + np.var(x.reshape(4, 2, 4), axis=1).mean(0) / 2)
    assert model.layers[1].rngs.count[...] == 1
