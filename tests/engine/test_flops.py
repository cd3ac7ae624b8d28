"""A step costs its floor, within 2 %, in floating-point operations that XLA counts.

For a fixed selection, and for each branch of a switch over cuts; `counting` says how the floor is
built.
"""

import jax
import jax.numpy as jnp
import pytest
from counting import branches, engine, floor, flops, network, plain, with_gates_closed
from jax.extend import core as jex
from staged import NETWORKS

import lsam_jax as lsam

RHO = 0.1
WITHIN = 0.02

SELECTIONS = {
    "convolutional": [
        ("a_head",),
        ("down", "block1_b"),
        ("block0_a", "block1_b", "a_head"),
        ("stem", "a_head"),
    ],
    "dense": [
        ("a_head",),
        ("layer4", "layer1"),
        ("layer6", "a_head"),
    ],
}
CASES = [(name, selected) for name, sets in SELECTIONS.items() for selected in sets]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "selected"), CASES)
def test_a_fixed_selection_costs_the_floor(name, selected):
    tx = lsam.layerwise_sam(None, RHO, 0.8, selection=[f"{n}/w" for n in selected])
    fun, args = engine(network(name), tx)
    assert flops(fun, *args) == pytest.approx(floor(name, selected[0], selected), rel=WITHIN)


@pytest.mark.parametrize(("name", "selected"), CASES)
def test_inspection_prices_any_selection(name, selected):
    net = network(name)
    names = [f"{n}/w" for n in selected]
    found = lsam.inspect(net.whole, net.params, net.batch, cuts=net.layers())
    want = floor(name, selected[0], selected) / plain(name)
    assert found.cost(names) == pytest.approx(want, abs=0.03)
    assert found.cost([]) == 1.0
    with pytest.raises(ValueError, match="selected names the layer 'x'"):
        found.cost(["x"])


@pytest.mark.parametrize("name", NETWORKS)
def test_inspection_prices_a_cut_that_comes_too_early(name):
    net = network(name)
    first, second = list(net.stages)[:2]
    stem = flops(net.stages[first], net.params[first], net.batch[0])
    early = lsam.inspect(net.whole, net.params, net.batch, cuts=1).cost([f"{second}/w"])
    want = (floor(name, second, (second,)) + stem) / plain(name)
    assert early == pytest.approx(want, abs=0.01)
    assert stem > 0.015 * plain(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_textbook_costs_twice_as_much(name):
    """So that the tests above can fail: a mask saves nothing."""
    net = network(name)

    def textbook(params, mask, batch):
        g = jax.grad(net.whole)(params, batch)
        moved = jax.tree.map(lambda w, g, m: w + RHO * m * g, params, g, mask)
        return jax.value_and_grad(net.whole)(moved, batch)

    mask = jax.tree.map(lambda w: jnp.zeros(()), net.params)
    assert flops(textbook, net.params, mask, net.batch) > 1.9 * plain(name)


CUTS = {
    "convolutional": ["stem", "block0_b", "down", "block1_a", "a_head"],
    "dense": ["layer6", "layer3", "layer1", "a_head"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place", "gate"),
    [
        ("convolutional", 0, True),
        ("convolutional", 1, True),
        ("convolutional", 2, False),
        ("convolutional", 4, True),
        ("dense", 0, False),
        ("dense", 1, True),
        ("dense", 3, True),
    ],
)
def test_the_branch_of_a_cut_costs_the_floor(name, place, gate):
    """With all gates open: the weight gradients of every layer from the cut on."""
    net, stages = network(name), CUTS[name]
    tx = lsam.layerwise_sam(2, RHO, 0.8, cuts=[f"{n}/w" for n in stages], gate=gate)
    found, operands = branches(*engine(net, tx), count=len(stages))
    behind = list(net.stages)[list(net.stages).index(stages[place]) :]
    want = floor(name, stages[place], tuple(behind))
    assert flops(jex.jaxpr_as_fun(found[place]), *operands) == pytest.approx(want, rel=WITHIN)


@pytest.mark.parametrize(("name", "cut"), [("convolutional", "stem"), ("dense", "layer6")])
def test_closed_gates_skip_the_weight_gradients(name, cut):
    """All gates closed: at most the error propagation to the cut and one weight gradient."""
    net, stages = network(name), CUTS[name]
    tx = lsam.layerwise_sam(2, RHO, 0.8, cuts=[f"{n}/w" for n in stages], gate=True)
    found, operands = branches(*engine(net, tx), count=len(stages))
    fun = jex.jaxpr_as_fun(with_gates_closed(found[stages.index(cut)]))
    assert flops(fun, *operands) <= (1 + WITHIN) * floor(name, cut, (cut,))
    behind = tuple(list(net.stages)[list(net.stages).index(cut) :])
    assert floor(name, cut, (cut,)) < 0.9 * floor(name, cut, behind)
