"""What is promised about prices: budgets, `inspect`, wrapped losses, frozen backbones.

All counted on compiled programs; `counting` says how the floor is built.
"""

import jax
import jax.numpy as jnp
import pytest
from counting import conditionals, engine, floor, flops, network, plain
from staged import NETWORKS

import lsam_jax as lsam

RHO = 0.1
WITHIN = 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_one_program_without_a_switch(name):
    """A fixed selection, all, none and a budget with "all" leave no conditional; a budget with a
    choice leaves gates only; and n cuts make one switch of n branches."""
    net = network(name)
    last = f"{list(net.stages)[-2]}/w"
    branches_of = {
        "fixed": (lsam.layerwise_sam(None, RHO, selection=[last]), {0}),
        "all": (lsam.layerwise_sam(None, RHO, selection="all"), {0}),
        "none": (lsam.layerwise_sam(None, RHO, selection="none"), {0}),
        "k=0": (lsam.layerwise_sam(0, RHO), {0}),
        "k=L": (lsam.layerwise_sam(len(net.stages), RHO), {0}),
        "budget, all": (lsam.layerwise_sam(None, RHO, selection=lsam.budget(0.5, "all")), {0}),
        "budget": (lsam.layerwise_sam(1, RHO, selection=lsam.budget(0.5)), {0, 2}),
        "one cut": (lsam.layerwise_sam(2, RHO, cuts=1), {0, 2}),
        "one cut, no gates": (lsam.layerwise_sam(2, RHO, cuts=1, gate=False), {0}),
        "three cuts": (lsam.layerwise_sam(2, RHO, cuts=3), {0, 2}),
        "three cuts, no gates": (lsam.layerwise_sam(2, RHO, cuts=3, gate=False), {0, 2}),
    }
    for what, (tx, counts) in branches_of.items():
        fun, args = engine(net, tx)
        found = [len(c.params["branches"]) for c in conditionals(jax.make_jaxpr(fun)(*args).jaxpr)]
        assert {0, *found} == counts, what
        # The last of three segments always runs; each other way through is one conditional, and
        # where there is no convolution, the descent's two, surely taken, are conditionals as well.
        expected = 4 if name == "convolutional" else 6
        assert len(found) == expected or what != "three cuts, no gates"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fraction"), [("convolutional", 0.6), ("dense", 0.1), ("dense", 0.3)]
)
def test_a_budget_holds(name, fraction):
    """Even with all gates open; and the next layer would not have fitted."""
    net = network(name)
    tx = lsam.layerwise_sam(1, RHO, 0.8, selection=lsam.budget(fraction))
    fun, args = engine(net, tx)
    allowed = 1 + fraction + WITHIN
    assert flops(fun, *args) <= allowed * plain(name)
    every = lsam.layerwise_sam(None, RHO, 0.8, selection=lsam.budget(fraction, "all"))
    fun, args = engine(net, every)
    state = jax.jit(fun)(*args)[2]
    chosen = {n for n, s in zip(lsam.layer_names(net.params), state.selected, strict=True) if s}
    stages = list(net.stages)
    first = min(stages.index(n.removesuffix("/w")) for n in chosen)
    assert chosen == {f"{n}/w" for n in stages[first:]}
    assert floor(name, stages[first], tuple(stages[first:])) <= allowed * plain(name)
    if first > 0:
        one_more = floor(name, stages[first - 1], tuple(stages[first - 1 :]))
        assert one_more >= (1 + fraction - WITHIN) * plain(name)


@pytest.mark.core
@pytest.mark.parametrize("name", NETWORKS)
def test_inspect_tells_the_cost(name):
    """Of a step in which a layer is the only one perturbed."""
    net = network(name)
    rows = lsam.inspect(net.whole, net.params, net.batch).layers
    assert [row.name for row in rows] == net.layers()
    for row, stage in zip(rows, net.stages, strict=True):
        want = floor(name, stage, (stage,)) / plain(name)
        assert row.cost == pytest.approx(want, abs=0.03), row.name


@pytest.mark.core
@pytest.mark.parametrize("wrapper", ["jit", "value_fn", "decay"])
def test_wrapped_losses_cost_the_floor(wrapper):
    """Inside `jit`, in an Optax chain (where the clean gradient that is passed in is not computed),
    and with weight decay in the loss."""
    name, selected = "dense", ("layer2", "a_head")
    net = network(name)
    tx = lsam.layerwise_sam(None, RHO, 0.8, selection=[f"{n}/w" for n in selected])
    loss = net.whole

    def decayed(params, batch):
        return 1e-3 * sum(jnp.sum(w**2) for w in jax.tree.leaves(params)) + loss(params, batch)

    def by_optax(params, state, batch):
        grads = jax.grad(loss)(params, batch)
        return tx.update(grads, state, params, value_fn=lambda p: loss(p, batch))

    fun = {
        "jit": lsam.value_and_grad(jax.jit(jax.jit(loss)), tx),
        "value_fn": by_optax,
        "decay": lsam.value_and_grad(decayed, tx),
    }[wrapper]
    counted = flops(fun, net.params, tx.init(net.params), net.batch)
    least = floor(name, selected[0], selected)
    if wrapper == "decay":  # its own operations, which differ between versions of XLA
        least += flops(jax.value_and_grad(decayed), net.params, net.batch) - plain(name)
    assert counted == pytest.approx(least, rel=WITHIN)


def test_checkpoints_share_their_prefix():
    """One checkpoint over the whole loss: from the cut on, forward once more than without."""
    net = network("dense")
    loss = jax.checkpoint(net.whole)
    tx = lsam.layerwise_sam(None, RHO, 0.8, selection=["layer1/w", "a_head/w"])
    counted = flops(lsam.value_and_grad(loss, tx), net.params, tx.init(net.params), net.batch)
    plain_remat = flops(jax.value_and_grad(loss), net.params, net.batch)
    extra = floor("dense", "layer1", ("layer1", "a_head")) - plain("dense")
    assert counted <= (1 + WITHIN) * (plain_remat + 4 / 3 * extra)


@pytest.mark.core
@pytest.mark.parametrize("name", NETWORKS)
def test_a_frozen_backbone(name):
    """Closed over; every layer of the head is perturbed for the price of the head alone."""
    net = network(name)
    stages = list(net.stages)
    head = {n: net.params[n] for n in stages[-1:]}
    frozen = {n: net.params[n] for n in stages[:-1]}

    def loss(head, batch, frozen):
        return net.whole({**frozen, **head}, batch)

    tx = lsam.layerwise_sam(None, RHO, 0.8, selection="all")

    def step(head, state, batch, frozen):
        return lsam.value_and_grad(lambda head: loss(head, batch, frozen), tx)(head, state)

    base = flops(jax.value_and_grad(loss), head, net.batch, frozen)
    counted = flops(step, head, tx.init(head), net.batch, frozen)
    again = floor(name, stages[-1], (stages[-1],)) - plain(name)
    assert counted == pytest.approx(base + again, rel=WITHIN)
    assert again < 0.05 * base
