"""The training loss: accumulation, mixed precision, and the optimizer's composed parts."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mocks import mocked
from tiny import TINY

from lsam_jax.experiments.config.config import Config, base_optimizer
from lsam_jax.experiments.config.methods import method
from lsam_jax.experiments.config.objective import TrainingLoss
from lsam_jax.experiments.data.datasets import Split
from lsam_jax.experiments.training.step import build

RNG = np.random.default_rng(0)
BATCH = Split(RNG.integers(0, 256, (12, 4, 4, 1), dtype=np.uint8), np.arange(12) % 3)


OPTIONS = {"sgd": {}, "sam": {"rho": 0.3}, "layerwise_sam": {"rho": 0.3, "k": 1}}


class Net(nn.Module):
    """Two dense layers in double precision, with or without what sees the batch."""

    norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(8, param_dtype=jnp.float64)(images.reshape(len(images), -1))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, param_dtype=jnp.float64)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(jnp.tanh(x))
        return nn.Dense(3, param_dtype=jnp.float64)(x)


def to_double(images):
    return jnp.asarray(images, jnp.float64) / 255 - 0.5


def prepared(**options):
    model = Net(**options)
    variables = model.init(jax.random.key(0), to_double(BATCH.images))
    loss_fn = TrainingLoss(model, to_double, 0.1)
    arguments = (variables.get("batch_stats", {}), {}, BATCH, jax.random.key(1))
    return loss_fn, variables["params"], arguments


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sgd", "sam", "layerwise_sam"])
@pytest.mark.parametrize("parts", [2, 3, 6])
def test_accumulation_equals_the_large_batch(name, parts):
    loss_fn, params, arguments = prepared()
    chosen = method(name, OPTIONS[name])
    results = []
    for each in (loss_fn, dataclasses.replace(loss_fn, accumulate=parts)):
        step = jax.jit(chosen.value_and_grad(each))
        results.append(step(params, chosen.init(params), *arguments))
    (whole, in_parts) = results
    assert jax.tree.structure(whole) == jax.tree.structure(in_parts)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(in_parts)):
        exact = a.dtype == jnp.float64
        np.testing.assert_allclose(b, a, rtol=1e-10 if exact else 1e-6, atol=1e-14)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_each_part_has_its_own_statistics_and_masks():
    loss_fn, params, (stats, frozen, batch, key) = prepared(norm=True)
    in_parts = dataclasses.replace(loss_fn, accumulate=3)
    loss, aux = in_parts(params, stats, frozen, batch, key)
    alone = [
        loss_fn(params, stats, frozen, Split(*(x[i::3] for x in batch)), key)  # as Optax deals them
        for i in range(3)
    ]
    np.testing.assert_allclose(loss, np.mean([one for one, _ in alone]), rtol=1e-12)
    mean = jax.tree.map(lambda *x: sum(x) / 3, *(one.batch_stats for _, one in alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), aux.batch_stats, mean)
    np.testing.assert_allclose(aux.accuracy, np.mean([one.accuracy for _, one in alone]))
    loss_fn, params, (stats, frozen, batch, key) = prepared(dropout=0.5)
    same = Split(np.repeat(batch.images[:1], 12, axis=0), np.zeros(12, np.int64))
    halves = dataclasses.replace(loss_fn, accumulate=2)
    first = loss_fn(params, stats, frozen, Split(*(x[:6] for x in same)), key)[0]
    assert abs(halves(params, stats, frozen, same, key)[0] - first) > 1e-6


def test_a_batch_in_parts_needs_the_memory_of_one():
    wide = Split(np.zeros((4096, 4, 4, 1), np.uint8), np.zeros(4096, np.int32))

    def temporary(accumulate):
        loss_fn = TrainingLoss(Wide(), lambda images: images / 255, 0.0, accumulate=accumulate)
        params = Wide().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
        gradient = jax.jit(jax.grad(loss_fn, has_aux=True))
        compiled = gradient.lower(params, {}, {}, wide, jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.4 * temporary(1)


class Wide(nn.Module):
    """Mostly activations."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        for _ in range(4):
            x = jnp.tanh(nn.Dense(64)(x))
        return nn.Dense(3)(x)


def test_the_optimizer_clips_decays_and_steps():
    config = Config(learning_rate=0.5, momentum=0.0, weight_decay=0.1, clip_norm=1.0, decay_at=())
    optimizer = base_optimizer(config, steps=3 * config.epochs)
    params = {"w": jnp.array([2.0, -1.0])}
    gradient = {"w": jnp.array([6.0, 8.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # Clipped to norm 1 before the decay is added.
    np.testing.assert_allclose(updates["w"], -0.5 * np.array([0.6 + 0.2, 0.8 - 0.1]), rtol=1e-6)
    free = base_optimizer(dataclasses.replace(config, clip_norm=None), steps=3 * config.epochs)
    updates, _ = free.update(gradient, free.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.5 * np.array([6.2, 7.9]), rtol=1e-6)


def test_adamw_is_optax_s_with_the_steps_of_the_learning_rate():
    config = Config(optimizer="adamw", learning_rate=0.5, weight_decay=0.1, decay_at=(0.5,))
    params, gradient = {"w": jnp.array([2.0, -1.0])}, {"w": jnp.array([6.0, 8.0])}
    optimizer, alone = base_optimizer(config, steps=2), optax.adamw(0.5, weight_decay=0.1)
    state, of_alone = optimizer.init(params), alone.init(params)
    for rate in (1.0, config.decay):
        updates, state = optimizer.update(gradient, state, params)
        expected, of_alone = alone.update(gradient, of_alone, params)
        np.testing.assert_allclose(updates["w"], rate * expected["w"], rtol=1e-6)
    frozen = base_optimizer(config, steps=2, freezes=True)
    updates, _ = frozen.update({"w": jnp.zeros(2)}, frozen.init(params), params)
    assert not updates["w"].any()
    with pytest.raises(ValueError, match="optimizer='adam' is not known; choose one of sgd, adamw"):
        Config(optimizer="adam")


@pytest.mark.slow
def test_bfloat16_computes_in_half_and_keeps_everything_in_single(small):
    config = dataclasses.replace(TINY, dtype="bfloat16", options={"k": 2, "cuts": 1})
    program = build(config, small)
    assert program.inspection.cuts == (program.layers[0],)
    state, metrics = program.step(program.init(0), program.batches(0)[0])
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    assert np.isfinite(metrics.loss)
    # The perturbation is not rounded away: rho g is far below what bfloat16 resolves in w.
    assert state.sam.sharpness != 0
    text = jax.jit(program.step).lower(program.init(0), program.batches(0)[0]).as_text()
    assert "bf16" in text


@pytest.mark.slow
def test_every_step_draws_anew_and_the_same_step_the_same():
    still = dataclasses.replace(TINY, method="sgd", options={}, learning_rate=0.0)
    config = dataclasses.replace(still, data="cifar10", batch_size=4)
    program = build(config, mocked("cifar10", 4))
    batch = program.batches(0)[0]

    def losses():
        state, first = program.step(program.init(0), batch)
        state, second = program.step(state, batch)
        return float(first.loss), float(second.loss)

    once = losses()
    assert once == losses()
    assert abs(once[0] - once[1]) > 1e-4  # other crops of the same images, by the same weights
