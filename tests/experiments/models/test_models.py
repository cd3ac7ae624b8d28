"""The networks: their sizes, their blocks, their types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsam_jax.experiments.config.objective import initial_variables
from lsam_jax.experiments.models import registry, resnet


@pytest.mark.parametrize(
    ("name", "size", "kernels", "parameters"),
    [
        ("resnet8", 8, 11, 78_330),
        ("resnet20", 32, 23, 272_762),
        ("wrn28_10", 32, 29, 36_481_434),
        ("wrn16_2", 32, 17, 692_122),
        ("wrn16_8", 32, 17, 10_963_162),
    ],
)
def test_kernel_and_parameter_counts(name, size, kernels, parameters):
    model = registry.preset(name)()
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), images)["params"])
    assert sum(x.ndim > 1 for x in shapes) == kernels
    assert sum(x.size for x in shapes) == parameters


@pytest.mark.parametrize(
    ("name", "momentum", "epsilon", "zero_init", "dropout"),
    [
        ("resnet20", 0.99, 1e-3, True, 0.0),
        ("wrn28_10", 0.99, 1e-5, True, 0.3),
        ("wrn16_2", 0.99, 1e-5, False, 0.3),
        ("wrn16_8", 0.99, 1e-5, False, 0.3),
    ],
)
def test_the_details_of_the_recipe_reach_the_layers(name, momentum, epsilon, zero_init, dropout):
    model = registry.preset(name)(width=2, stem_width=2, stages=(1,))
    images = jax.random.normal(jax.random.key(1), (64, 8, 8, 3))
    variables = initial_variables(model, (8, 8, 3), jax.random.key(0))
    scale = np.asarray(variables["params"]["block0"]["norm2"]["scale"])
    np.testing.assert_array_equal(scale, 0.0 if zero_init else 1.0)
    variables["params"]["block0"]["norm2"]["scale"] = np.ones(2, np.float32)
    # Small activations, so that epsilon counts.
    variables["params"]["block0"]["conv2"]["kernel"] *= 1e-3
    run = functools.partial(
        model.apply,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )
    results, updated = jax.jit(run)(variables, images, rngs={"dropout": jax.random.key(2)})
    block = updated["intermediates"]["block0"]
    before, after = (np.asarray(block[layer]["__call__"][0]) for layer in ("conv2", "norm2"))
    mean, variance = before.mean(axis=(0, 1, 2)), before.var(axis=(0, 1, 2))
    np.testing.assert_allclose(
        after, (before - mean) / np.sqrt(variance + epsilon), rtol=1e-2, atol=1e-4
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["block0"]["norm2"]["mean"],
        (1 - momentum) * mean,
        rtol=1e-3,
        atol=1e-7,
    )
    assert results.shape == (64, 10)
    if dropout:
        dropped = np.asarray(block["Dropout_0"]["__call__"][0])
        kept = np.asarray(block["norm1"]["__call__"][0]) > 0  # what ReLU lets through
        assert abs(np.mean(dropped[kept] == 0) - dropout) < 0.03  # four deviations
        np.testing.assert_array_equal(dropped[~kept], 0)
    else:
        assert "Dropout_0" not in block


@pytest.mark.slow
def test_a_new_block_is_its_shortcut():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))

    def change_by_the_residual_branches(zero_init):
        model = resnet.resnet8(width=4, zero_init=zero_init)
        variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
        apply = jax.jit(model.apply)
        before = apply(variables, images)
        for block in ("block0", "block1", "block2"):
            variables["params"][block]["conv2"]["kernel"] *= 5.0
        return np.abs(apply(variables, images) - before).max()

    assert change_by_the_residual_branches(zero_init=True) == 0
    assert change_by_the_residual_branches(zero_init=False) > 1e-3


@pytest.mark.slow
def test_dropout_follows_its_key_and_is_off_in_evaluation():
    model = resnet.resnet8(width=4, dropout=0.5, zero_init=False)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))

    @jax.jit
    def logits(seed):
        key = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)[0]

    np.testing.assert_array_equal(logits(0), logits(0))
    assert np.abs(logits(0) - logits(1)).max() > 1e-3
    assert model.apply(variables, images).shape == (4, 10)  # needs no key


@pytest.mark.slow
def test_computation_in_bfloat16_keeps_parameters_and_logits_in_float32():
    model = resnet.resnet8(width=4, dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    low, high = model.apply(variables, images), resnet.resnet8(width=4).apply(variables, images)
    assert low.dtype == jnp.float32
    difference = np.abs(low - high).max()
    assert 0 < difference < 0.1
