"""The cheaper ascents as settings of training, against two gradients by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.methods import METHODS, method
from lsam_jax.experiments.config.presets import preset
from lsam_jax.experiments.data.datasets import Split
from lsam_jax.experiments.training.loop import fit


def loss_fn(params, batch_stats, frozen, batch, key):
    hidden = jnp.tanh(batch.images @ params["a"]["kernel"])
    errors = hidden @ params["b"]["kernel"] - batch.labels
    return 0.5 * jnp.mean(errors**2), errors


@pytest.fixture
def arguments(x64):
    a, b, images, labels = (
        jax.random.normal(jax.random.key(n), shape)
        for n, shape in enumerate([(3, 4), (4, 2), (16, 3), (16, 2)])
    )
    params = {"a": {"kernel": a}, "b": {"kernel": b}}
    return params, {}, {}, Split(images, labels), jax.random.key(0)


def gradient(params, batch):
    return jax.grad(loss_fn, has_aux=True)(params, {}, {}, batch, None)[0]


def moved(params, direction, rho, names):
    """By rho along the direction of some layers, of unit length over them."""
    length = jnp.sqrt(sum(jnp.sum(direction[name]["kernel"] ** 2) for name in names))
    return {
        name: {"kernel": leaf["kernel"] + rho * direction[name]["kernel"] / length}
        if name in names
        else leaf
        for name, leaf in params.items()
    }


def assert_same(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "names"),
    [
        ("sam", {"rho": 0.7}, "ab"),
        ("layerwise_sam", {"k": 1, "rho": 0.7, "alpha": 1.0, "normalize": True}, "b"),
    ],
)
def test_the_ascent_is_that_of_a_share_of_the_batch(arguments, name, options, names):
    params, *_, batch, _ = arguments
    chosen = method(name, {**options, "ascent_batch": 0.25})
    step = chosen.value_and_grad(loss_fn)
    (loss, aux), grads, _ = step(params, chosen.init(params), *arguments[1:])
    part = Split(batch.images[::4], batch.labels[::4])
    there = moved(params, gradient(params, part), 0.7, names)
    assert_same(grads, gradient(there, batch))
    assert_same((loss, aux), loss_fn(there, {}, {}, batch, None))
    whole = moved(params, gradient(params, batch), 0.7, names)
    assert np.abs(gradient(whole, batch)["a"]["kernel"] - grads["a"]["kernel"]).max() > 1e-4


def test_stale_climbs_along_the_step_before(arguments):
    params, *_, batch, _ = arguments
    chosen = method("stale", {"rho": 0.7, "rest": 1})
    step = chosen.value_and_grad(loss_fn)
    _, first, state = step(params, chosen.init(params), *arguments[1:])
    assert_same(first, gradient(params, batch))
    moving = gradient(moved(params, first, 0.7, "ab"), batch)
    for _ in range(2):
        _, second, state = step(params, state, *arguments[1:])
        assert_same(second, moving)
        moving = gradient(moved(params, second, 0.7, "ab"), batch)
    assert chosen.price(None, ["a/kernel"]) == 1


def test_stale_rests_by_default(arguments):
    params, *_, batch, _ = arguments
    chosen = method("stale", {"rho": 0.7})
    step, state = chosen.value_and_grad(loss_fn), chosen.init(params)
    for _ in range(3):
        _, grads, state = step(params, state, *arguments[1:])
    assert_same(grads, gradient(params, batch))


@pytest.mark.parametrize(
    ("options", "perturbs"),
    [
        ({"perturb_every": 2}, [True, False, True, False]),
        ({"perturb_from": 0.5}, [False, False, True, True]),  # of a run of four steps
    ],
)
def test_some_steps_perturb(arguments, options, perturbs):
    params, *_, batch, _ = arguments
    chosen = method("sam", {"rho": 0.7, **options}, steps=4)
    step, state = chosen.value_and_grad(loss_fn), chosen.init(params)
    plain = gradient(params, batch)
    perturbed = gradient(moved(params, plain, 0.7, "ab"), batch)
    assert np.abs(perturbed["a"]["kernel"] - plain["a"]["kernel"]).max() > 1e-4
    for one in perturbs:
        _, grads, state = step(params, state, *arguments[1:])
        assert_same(grads, perturbed if one else plain)


def test_parts_of_the_batch_are_perturbed_apart(arguments):
    params, *_, batch, _ = arguments
    chosen = method("sam", {"rho": 0.7, "m": 4})
    (loss, aux), grads, _ = chosen.value_and_grad(loss_fn)(
        params, chosen.init(params), *arguments[1:]
    )
    parts = [Split(batch.images[n : n + 4], batch.labels[n : n + 4]) for n in range(0, 16, 4)]
    own = [gradient(moved(params, gradient(params, p), 0.7, "ab"), p) for p in parts]
    assert_same(grads, jax.tree.map(lambda *g: sum(g) / 4, *own))
    clean, errors = loss_fn(params, {}, {}, batch, None)
    assert_same(loss, clean)
    assert_same(aux, errors.reshape(4, 4, 2).mean(axis=0))
    assert chosen.price(None, ["a/kernel", "b/kernel"]) == 2


def test_two_ways_to_say_when_to_perturb_are_refused():
    with pytest.raises(ValueError, match=r"perturb_every=2 and perturb_from=0\.5 both say"):
        Config(method="sam", options={"perturb_every": 2, "perturb_from": 0.5})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sam", {"ascent_batch": 0.0}, "ascent_batch.*0.0"),
        ("sam", {"ascent_batch": 1.5}, "ascent_batch.*1.5"),
        (
            "layerwise_sam",
            {"ascent_batch": 8},
            "ascent_batch=8 must be a share of the batch.*0.125",
        ),
        ("sam", {"ascent_batch": "1/8"}, "ascent_batch='1/8' must be a share"),
        ("sgd", {"ascent_batch": 0.125}, "ascent_batch=0.125 is not an option of method 'sgd'"),
        ("momentum_sam", {"ascent_batch": 0.125}, "ascent_batch.*makes no sense"),
    ],
)
def test_a_share_that_makes_no_sense_is_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        Config(method=name, options=options)


def test_a_share_that_does_not_divide_the_batch_is_found_before_training(small):
    config = dataclasses.replace(TINY, options={"ascent_batch": 0.3}, batch_size=32)
    with pytest.raises(ValueError, match=r"ascent_batch=0.3 of 32 samples is 9.6"):
        fit(config, small)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cost"), [("sam", 1.25), ("look_sam", 1.125)])
def test_a_share_is_recorded_at_its_price(small, name, cost):
    options = {"ascent_batch": 0.25}
    config = dataclasses.replace(TINY, method=name, options=options, epochs=1)
    history = fit(config, small).history
    np.testing.assert_allclose(history.cost, cost)  # LookSAM: two of four steps perturb


def test_a_budget_reaches_a_method_with_one_of_its_own():
    config = Config(method="sl_sam", options={"budget": 0.1})
    within, free = (method("sl_sam", options).tx.method for options in (dict(config.options), {}))
    assert (within.selector.one_cut, free.selector.one_cut) == (True, False)
    assert METHODS["sl_sam"].options.count("budget") == 1


@pytest.mark.parametrize("name", ["sgd", "sam", "layerwise_sam", "stale"])
def test_the_presets_methods_are_what_its_table_says(name):
    config = preset("noisy-digits-resnet8").configure(name)
    assert (config.label_noise, config.label_smoothing, config.data) == (0.4, 0.0, "digits")
    options = dict(config.options)
    options.pop("rho", None)
    recipe = {"k": 4, "alpha": 1.0, "normalize": True, "ascent_batch": 0.0625}
    assert options == {"layerwise_sam": recipe}.get(name, {})
