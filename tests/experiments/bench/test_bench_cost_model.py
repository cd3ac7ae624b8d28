"""The paper's cost model and this library's counts, against networks that are counted by hand."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam
from lsam_jax.experiments.bench import cost_model
from lsam_jax.experiments.config.methods import complete, method

N = 64  # samples; their mean is nothing beside the products
WIDTHS = (32, 48, 80, 56)
WITHIN = 0.01


def chain():
    params = {f"w{i}": jnp.ones(shape) for i, shape in enumerate(itertools.pairwise(WIDTHS))}
    return lsam.inspect(
        lambda p, x: jnp.mean(x @ p["w0"] @ p["w1"] @ p["w2"]), params, jnp.ones((N, WIDTHS[0]))
    )


# Every product with w_i takes as much: forward, for its gradient, and to pass an error through it.
PRODUCT = [2 * N * a * b for a, b in itertools.pairwise(WIDTHS)]
FORWARD = sum(PRODUCT)
PLAIN = 2 * FORWARD + PRODUCT[1] + PRODUCT[2]
PASSED = {0: PRODUCT[1] + PRODUCT[2], 1: PRODUCT[2], 2: 0}  # by an error on its way to layer i
SETS = [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)]


def price(name):
    """What a run counts of a method."""
    return method(name, complete(name, {})).price


def mask(layers, length=3):
    return np.isin(np.arange(length), layers)


@pytest.mark.parametrize("layers", SETS)
def test_equation_8(layers):
    want = 1 + (PASSED[layers[0]] + sum(PRODUCT[i] for i in layers)) / PLAIN
    found = cost_model.layerwise_sam(chain().profile, mask(layers))
    assert found == pytest.approx(want, abs=WITHIN)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_equation_9(every):
    want = 1 + (PASSED[0] + FORWARD) / PLAIN / every
    assert cost_model.look_sam(chain().profile, every) == pytest.approx(want, abs=WITHIN)


@pytest.mark.parametrize("layers", SETS)
def test_both_passes_count_the_second_forward_pass_from_the_cut_on(layers):
    again, ascent = sum(PRODUCT[layers[0] :]), PASSED[layers[0]] + sum(PRODUCT[i] for i in layers)
    network, chosen = chain(), [f"w{i}" for i in layers]
    assert network.cuts == ("w0", "w1", "w2")
    for name, want in (
        ("sam", PLAIN + again + ascent),
        ("esam", FORWARD + ascent + again + PLAIN / 2),
        ("sl_sam", FORWARD + ascent + again + ascent),
    ):
        assert price(name)(network, chosen) == pytest.approx(want / PLAIN, abs=WITHIN)


def test_a_step_that_perturbs_nothing():
    network, none = chain(), mask(())
    assert cost_model.layerwise_sam(network.profile, none) == 1
    assert price("sam")(network, []) == 1
    assert price("sl_sam")(network, []) == pytest.approx(FORWARD / PLAIN, abs=WITHIN)


def test_errors_are_propagated_along_every_branch_that_needs_them():
    """What lies beside the first of the layers is not on the way to it."""
    n, d = N, 32
    params = {name: jnp.ones((d, d)) for name in ("stem", "left0", "left1", "right0", "right1")}

    def loss(p, x):
        y = x @ p["stem"]
        return jnp.mean(y @ p["left0"] @ p["left1"] + y @ p["right0"] @ p["right1"])

    network = lsam.inspect(loss, params, jnp.ones((n, d)))
    names = [layer.name for layer in network.layers]
    one = 1 / (5 + 5 + 4)  # a product: 5 forward, 5 gradients, 4 on the way to the stem
    for selected, passed in (
        (("left0",), 1),
        (("left0", "right0"), 2),
        (("left0", "right1"), 1),
        (("left1", "right1"), 0),
        (("stem",), 4),
    ):
        found = cost_model.layerwise_sam(network.profile, np.isin(names, selected))
        assert found == pytest.approx(1 + (passed + len(selected)) * one, abs=WITHIN)
