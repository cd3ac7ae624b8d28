"""Linen: a TrainState for a residual network with BatchNorm and dropout, in both places of SAM."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from flax.training import train_state
from training import LR, MOMENTUM, RHO, assert_same
from zoo.common import batches, cross_entropy
from zoo.images import ResNet

import lsam_jax as lsam
from lsam_jax.integrations.linen import TrainState

K, ALPHA = 2, 0.8
SGD = {"learning_rate": LR, "momentum": MOMENTUM}


def loss_fn(params, batch_stats, batch):
    """What a Linen user writes: running statistics in, running statistics out."""
    logits, updated = ResNet().apply(
        {"params": params, "batch_stats": batch_stats},
        batch["x"],
        rngs={"dropout": batch["key"]},
        mutable=["batch_stats"],
    )
    return cross_entropy(logits, batch["y"])[0], (logits, updated["batch_stats"])


def by_chain(sam, traced):
    @jax.jit
    def train_step(state, batch):
        traced.append(batch)

        def of_params(params):
            return loss_fn(params, state.batch_stats, batch)

        (loss, (logits, stats)), grads = jax.value_and_grad(of_params, has_aux=True)(state.params)
        state = state.apply_gradients(
            grads=grads, value_fn=lambda params: of_params(params)[0], batch_stats=stats
        )
        return state, loss, logits

    return train_step, {"tx": optax.chain(sam, optax.sgd(**SGD))}


def by_engine(sam, traced):
    value_and_grad = lsam.value_and_grad(loss_fn, sam, has_aux=True)

    @jax.jit
    def train_step(state, batch):
        traced.append(batch)
        (loss, (logits, stats)), grads, sam_state = value_and_grad(
            state.params, state.sam_state, state.batch_stats, batch
        )
        state = state.apply_gradients(grads=grads, sam_state=sam_state, batch_stats=stats)
        return state, loss, logits

    return train_step, {"tx": optax.sgd(**SGD), "sam_state": sam.init}


def variables_and_batches():
    data = batches(np.random.default_rng(7), 8, 8, 3)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(ResNet().init)(keys, data[0]["x"])
    return jax.tree.map(lambda x: x.astype(jnp.float64), variables), data


ORDER = (
    "stem/kernel",
    *(f"block0/{name}/kernel" for name in ("conv1", "conv2")),
    *(f"block1/{name}/kernel" for name in ("conv1", "conv2", "shortcut")),
    "a_head/kernel",
)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("place", [by_chain, by_engine])
def test_trains_like_the_textbook(place):
    """Parameters and BatchNorm's statistics, which are those of the clean pass."""
    variables, data = variables_and_batches()
    traced = []
    sam = lsam.layerwise_sam(K, RHO, ALPHA, cuts=1, gate=False)  # quick to compile
    train_step, fields = place(sam, traced)
    params, stats = variables["params"], variables["batch_stats"]
    if "sam_state" in fields:
        fields["sam_state"] = fields["sam_state"](params)
    state = TrainState.create(apply_fn=None, params=params, batch_stats=stats, **fields)

    @jax.jit
    def gradient(params, stats_and_batch):
        return jax.value_and_grad(loss_fn, has_aux=True)(params, *stats_and_batch)

    norms, descend = dict.fromkeys(ORDER, 0.0), textbook.Momentum(LR, MOMENTUM)
    for n, batch in enumerate(data):
        chosen = textbook.choose(norms, K, ORDER)
        want = textbook.step(gradient, params, (stats, batch), chosen, RHO, ALPHA)
        params, norms, (logits, stats) = descend(params, want.direction), want.norms, want.aux
        state, loss, got_logits = train_step(state, batch)
        assert_same((loss, got_logits), (jnp.asarray(want.loss), logits))
        assert_same((state.params, state.batch_stats), (params, stats))
        assert int(state.step) == n + 1
    assert len(traced) == 1  # one compilation


def state_of(base, tx, **fields):
    return base.create(apply_fn=None, params={"w": jnp.ones((2, 2))}, tx=tx, **fields)


def test_without_a_sam_method_it_is_flax_s():
    """Also for an optimizer that knows no extra arguments."""
    tx = optax.GradientTransformation(*optax.adam(0.1)[:2])
    ours, flax_s = (state_of(base, tx) for base in (TrainState, train_state.TrainState))
    for _ in range(2):
        grads = jax.tree.map(jnp.sin, ours.params)
        ours, flax_s = (state.apply_gradients(grads=grads) for state in (ours, flax_s))
    assert_same((ours.params, ours.opt_state), (flax_s.params, flax_s.opt_state))
    assert ours.tx is tx


def test_grad_fn_and_fields_of_a_subclass():
    class WithAverage(TrainState):
        average: dict

    state = state_of(WithAverage, lsam.sam(RHO), average=0)
    state = state.apply_gradients(grads=state.params, grad_fn=lambda params: params, average=1)
    assert state.average == 1
    moved = 1 + RHO / 2  # the norm of the gradient is 2
    np.testing.assert_allclose(state.params["w"], 1 + moved, rtol=1e-6)


def test_ascent_fn():
    """The loss that is climbed depends on the first row alone."""
    state = state_of(TrainState, lsam.sam(RHO, layers="array"))
    state = state.apply_gradients(
        grads=state.params,
        value_fn=lambda params: jnp.sum(params["w"] ** 2) / 2,
        ascent_fn=lambda params: jnp.sum(params["w"][0]),
    )
    moved = np.array([[1 + RHO / np.sqrt(2)] * 2, [1, 1]])
    np.testing.assert_allclose(state.params["w"], 1 + moved, rtol=1e-6)


def test_flax_s_own_says_what_is_missing():
    state = state_of(train_state.TrainState, lsam.sam(RHO))
    with pytest.raises(ValueError, match=r"lsam_jax\.integrations\.linen\.TrainState"):
        state.apply_gradients(grads=state.params)
