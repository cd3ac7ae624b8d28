"""A step costs its floor, within 2 %, in floating-point operations that XLA counts.

For a fixed selection, and for one that is known only when the step runs; `counting` says how the
floor is built.
"""

import jax
import jax.numpy as jnp
import pytest
from counting import as_it_runs, engine, floor, flops, network, plain
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


def forced(net, selected, **options):
    """A step whose selection is known only when it runs, and its arguments."""
    tx = lsam.layerwise_sam(lambda count: count, RHO, 0.8, **options)
    names = lsam.layer_names(net.params)
    state = tx.init(net.params)._replace(
        count=jnp.asarray(len(selected), jnp.int32),
        norms=jnp.asarray([n in {f"{s}/w" for s in selected} for n in names], jnp.float32),
    )
    return lsam.value_and_grad(net.whole, tx), (net.params, state, net.batch)


QUICK = ("down", "layer3")
FIRST = [
    pytest.param(name, first, marks=[] if first in QUICK else pytest.mark.slow)
    for name in NETWORKS
    for first in network(name).stages
]


@pytest.mark.parametrize(("name", "first"), FIRST)
def test_a_step_costs_the_floor_from_each_layer_on(name, first):
    """That layer alone, and all behind it too."""
    net = network(name)
    stages = list(net.stages)
    behind = tuple(stages[stages.index(first) :])
    for selected in ((first,), behind):
        fun, args = forced(net, selected, cuts=net.layers())
        assert as_it_runs(fun, *args) == pytest.approx(floor(name, first, selected), rel=WITHIN)


@pytest.mark.parametrize(
    ("name", "cut", "first"), [("convolutional", "down", "block1_b"), ("dense", "layer4", "layer2")]
)
def test_a_cut_that_comes_too_early_costs_what_stands_between(name, cut, first):
    """Without gates every weight gradient from the cut on."""
    net = network(name)
    stages = list(net.stages)
    cuts = [f"{n}/w" for n in (stages[0], cut)]
    fun, args = forced(net, (first,), cuts=cuts, gate=False)
    want = floor(name, cut, tuple(stages[stages.index(cut) :]))
    assert as_it_runs(fun, *args) == pytest.approx(want, rel=WITHIN)
    assert want > 1.05 * floor(name, first, (first,))
