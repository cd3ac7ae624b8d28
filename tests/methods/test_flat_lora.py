"""Flat-LoRA: the law of the noise, by many draws, and the gradient of adapters, by `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import INF, NAN, refused
from textbook import relative_error
from training import EXACT

import lsam_jax as lsam

RHO, STEPS = 0.3, 40


def weights(*shape, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) * np.exp(rng.normal(size=shape[-1])), dtype)


def noise(w, step=STEPS, rho=RHO, steps=STEPS, **more):
    """In float64, so that nothing is lost in the difference."""
    noisy = lsam.flat_lora(w, step, rho=rho, steps=steps, **more)
    return jax.tree.map(lambda x, y: np.float64(x) - np.float64(y), noisy, w)


def draws(w, count=4000, **more):
    """[draws, *shape], of seeds 0, 1, ..."""

    def one(seed):
        return lsam.flat_lora(w, STEPS, rho=RHO, steps=STEPS, seed=seed, **more)

    keys = jax.vmap(jax.random.key)(jnp.arange(count))
    return np.float64(jax.jit(jax.vmap(one))(keys)) - np.float64(w)


def check_law(found, std, slack=0.0):
    """Normal, with mean 0 and this standard deviation, within four standard errors."""
    count = len(found)
    z = found / np.broadcast_to(std, found.shape[1:])
    assert np.abs(z.mean(0)).max() <= (5 + slack) / np.sqrt(count)  # the largest of many
    for axes in ((1,), (2,)):  # over the draws and the inputs, or the outputs
        squares = (z**2).mean((0, *axes))
        size = count * np.prod([z.shape[a] for a in axes])
        assert np.abs(squares - 1).max() <= 4 * np.sqrt(2 / size) + slack
    assert abs((z**4).mean() - 3) <= 4 * np.sqrt(96 / z.size) + 10 * slack
    together = np.corrcoef(z.reshape(count, -1).T) - np.eye(z[0].size)
    assert np.abs(together).max() <= 5 / np.sqrt(count)  # and none goes with another


def test_the_law_of_the_noise():
    w = weights(6, 5)
    std = RHO * np.sqrt((np.float64(w) ** 2).sum(0)) / np.sqrt(6)
    check_law(draws(w), std)


def test_of_weights_out_in():
    w = weights(6, 5)
    std = RHO * np.sqrt((np.float64(w) ** 2).sum(1)) / np.sqrt(5)
    check_law(draws(w, output_axis=0), std[:, None])
    check_law(draws(w, output_axis=-2), std[:, None])


def test_a_convolution_has_all_but_the_last_axis_as_inputs():
    w = weights(3, 2, 4)
    std = RHO * np.sqrt((np.float64(w) ** 2).sum((0, 1)) / 6)
    check_law(draws(w).reshape(-1, 6, 4), std)


def test_the_merged_weights_give_the_scale():
    w, merged = weights(6, 5), 3 * weights(6, 5, seed=7)
    std = RHO * np.sqrt((np.float64(merged) ** 2).sum(0) / 6)
    check_law(draws(w, merged=merged), std)


def test_half_precision():
    w = weights(6, 5, dtype="bfloat16")
    assert lsam.flat_lora(w, STEPS, rho=RHO, steps=STEPS).dtype == jnp.bfloat16
    std = RHO * np.sqrt((np.float64(w) ** 2).sum(0) / 6)
    check_law(draws(w), std, slack=0.02)  # rounded to one of 256 parts of a weight
    wide = noise(w.astype(jnp.float32))
    moved = (np.float64(w) + wide).astype(jnp.bfloat16)  # rounded once
    assert np.array_equal(moved, lsam.flat_lora(w, STEPS, rho=RHO, steps=STEPS))


def test_it_rises_by_a_cosine():
    """The draw goes by the step alone, so the length of the run shows c_t."""
    w = weights(6, 5)
    whole = noise(w, step=12, steps=12)
    for steps, c in ((24, 0.5), (48, (1 - np.sqrt(0.5)) / 2), (36, 0.25), (6, 1.0)):
        assert np.allclose(noise(w, step=12, steps=steps), c * whole, rtol=1e-4, atol=1e-5), steps
    assert np.array_equal(lsam.flat_lora(w, 0, rho=RHO, steps=STEPS), w)
    scheduled = noise(w, step=12, steps=12, rho=lambda count: RHO * count / 24)
    assert np.allclose(scheduled, whole / 2, rtol=1e-4, atol=1e-5)


def test_a_draw_is_that_of_seed_step_and_place():
    w = {"a": weights(6, 5), "b": weights(6, 5)}
    z = {}
    for seed in (0, 1):
        for step in (STEPS, STEPS + 1):  # both at full size
            first, again = (noise(w, step=step, seed=seed) for _ in range(2))
            for name in w:
                assert np.array_equal(first[name], again[name])
                z[seed, step, name] = first[name].ravel()
    apart = np.corrcoef(list(z.values())) - np.eye(len(z))
    assert np.abs(apart).max() < 0.8
    key = jax.random.key(1)
    assert np.array_equal(noise(w, seed=key)["a"], noise(w, seed=1)["a"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("off", ["rho", "scheduled rho", "first step"])
def test_without_noise_not_a_bit_changes(off, dtype):
    w = weights(6, 5, dtype=dtype).at[0, 0].set(-0.0).at[:, 1].set(-0.0)
    rho = {"rho": 0.0, "scheduled rho": lambda count: 0.0 * count}.get(off, RHO)
    step = 0 if off == "first step" else 7
    got = jax.jit(lambda w, step: lsam.flat_lora(w, step, rho=rho, steps=STEPS))(w, step)
    assert np.asarray(got).tobytes() == np.asarray(w).tobytes()


def test_vectors_and_scalars_are_left():
    w = {"b": jnp.ones(4), "count": 3, "scale": jnp.ones(()), "w": jnp.ones((2, 4))}
    noisy = lsam.flat_lora(w, STEPS, rho=RHO, steps=STEPS)
    assert all(noisy[name] is w[name] for name in ("b", "count", "scale"))
    assert not np.allclose(noisy["w"], w["w"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_the_gradient_is_that_of_the_adapters_with_the_noise_held(wrap):
    rng = np.random.default_rng(3)
    W, a, b, x, y = (
        jnp.asarray(rng.normal(size=s)) for s in ((6, 5), (6, 2), (2, 5), (9, 6), (9, 5))
    )
    lora = {"a": a, "b": b}

    def loss(noisy):
        return jnp.mean((jnp.tanh(x @ noisy) - y) ** 2)

    def merged(lora):
        return W + lora["a"] @ lora["b"]

    def of_merged(lora, step):
        return loss(lsam.flat_lora(merged(lora), step, rho=RHO, steps=STEPS))

    def of_frozen(lora, step):
        noisy = lsam.flat_lora(W, step, rho=RHO, steps=STEPS, merged=merged(lora))
        return loss(noisy + lora["a"] @ lora["b"])

    for step in (0, 13, STEPS):
        eps = noise(merged(lora), step=step)
        assert step == 0 or np.abs(eps).max() > 0.01
        want = jax.grad(lambda p, eps: loss(merged(p) + eps))(lora, eps)
        for of in (of_merged, of_frozen):
            got = jax.grad(wrap(of))(lora, step)
            for name in lora:
                assert relative_error(got[name], want[name]) <= EXACT


def test_under_jit_and_strict_promotion_it_is_the_same():
    w = {"a": weights(6, 5), "b": weights(3, 4, dtype="bfloat16")}
    call = jax.jit(lambda w, step, rho: lsam.flat_lora(w, step, rho=rho, steps=STEPS))
    want = lsam.flat_lora(w, 7, rho=RHO, steps=STEPS)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        got = [call(w, 7, RHO), lsam.flat_lora(w, 7, rho=RHO, steps=STEPS)]
    for tree in got:
        assert jax.tree.map(jnp.result_type, tree) == jax.tree.map(jnp.result_type, w)
        for x, y in zip(*map(jax.tree.leaves, (tree, want)), strict=True):
            assert np.allclose(np.float32(x), np.float32(y), rtol=1e-5)
    call(w, jnp.asarray(8), 0.1)
    assert call._cache_size() <= 3  # a step is no reason to compile again


def test_bad_input_is_refused_by_name():
    w = weights(6, 5)

    def call(kind, *words, weights=w, step=1, **options):
        with refused(kind, *words):
            lsam.flat_lora(weights, step, **{"rho": RHO, "steps": STEPS, **options})

    call(ValueError, "rho", "-0.1", "at least 0", rho=-0.1)
    call(ValueError, "rho", "nan", rho=NAN)
    call(ValueError, "rho", "inf", rho=INF)
    call(TypeError, "rho", "'0.1'", rho="0.1")
    call(ValueError, "steps", "0", "at least 1", steps=0)
    call(ValueError, "steps", "2.5", "whole", steps=2.5)
    call(TypeError, "steps", "function", steps=lambda count: 3)
    call(ValueError, "step", "-1", "at least 0", step=-1)
    call(ValueError, "step", "0.5", "whole", step=0.5)
    call(TypeError, "step", "function", step=lambda: 3)
    call(TypeError, "seed", "jax.random.key", "0.5", seed=0.5)
    call(TypeError, "seed", "jax.random.key", seed=jnp.zeros(2, jnp.uint32))
    call(TypeError, "seed", "True", seed=True)
    call(TypeError, "weights['q']", "int8", weights={"q": jnp.ones((2, 2), jnp.int8)})
    call(ValueError, "merged", "weights", merged={"w": w})
    call(ValueError, "merged", "(5, 6)", "(6, 5)", merged=w.T)
    call(ValueError, "output_axis", "2", output_axis=2)
    call(TypeError, "output_axis", "'out'", output_axis="out")
