"""Selections that know prices: norm per cost, and a mean price that is held over a run."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
import zoo
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from refusals import NAN, refused
from staged import dense
from training import RHO, assert_trains_like_textbook

import lsam_jax as lsam

STEPS, K = 50, 2


def network():
    """Six residual layers and a head; its layers, and its costs as `inspect` counts them."""
    net = dense(width=16, batch=8)
    return net, net.layers()


def loss_of(net):
    return lambda params, batch, scale: scale * net.whole(params, batch)


def costs_of(net, selection, k=K):
    args = net.params, net.batch, jnp.ones(())
    return lsam.inspect(loss_of(net), *args, selection=selection, k=k).cost


def run(net, tx, steps=STEPS, spoil=()):
    """The layers of each step, and the last state; steps in `spoil` meet a loss of NaN."""

    step = jax.jit(lsam.value_and_grad(loss_of(net), tx))
    params, state = net.params, tx.init(net.params)
    names, seen = lsam.layer_names(net.params), []
    for count in range(steps):
        scale = jnp.where(count in spoil, jnp.nan, 1.0)
        _, direction, state = step(params, state, net.batch, scale)
        if count not in spoil:
            params = jax.tree.map(lambda w, d: w - 0.05 * d, params, direction)
        seen.append([n for n, s in zip(names, state.selected, strict=True) if s])
    return seen, state


def means(net, selection, seen, k=K):
    cost = costs_of(net, selection, k)
    return np.cumsum([cost(chosen) for chosen in seen]) / np.arange(1, len(seen) + 1)


PRICES = {
    "all": ("all", None, 1.25),
    "high": ("high", K, 1.25),
    "the first": (["layer6/w"], None, 1.15),
    "random": (lsam.random(5), K, 1.3),
    "per cost": (lsam.per_cost("low"), K, 1.25),
    "drawn": (lsam.independent(0.5), None, 1.25),
}
BY_NORM = ("high", "per cost")


@pytest.mark.slow
@pytest.mark.parametrize("name", PRICES)
def test_the_mean_never_exceeds_the_price_and_approaches_it(name):
    net, layers = network()
    inner, k, mean = PRICES[name]
    selection = lsam.price(mean, inner)
    seen, state = run(net, lsam.layerwise_sam(k, RHO, selection=selection, normalize=True))
    found = means(net, selection, seen, k or 1)
    assert (found <= mean + 1e-6).all()
    assert found[-1] >= mean - 1 / STEPS  # no step costs more than two gradients
    front = layers if name in BY_NORM else layers[:1]  # by norm, all wishes may be further behind
    assert sum(not set(chosen).isdisjoint(front[:-1] or front) for chosen in seen) >= 3
    left = STEPS * mean - found[-1] * STEPS
    cost = costs_of(net, selection, k or 1)
    before = left - (mean - cost(seen[-1]))  # the state knows of all steps but the last
    assert state.memory.selection.balance == pytest.approx(before, abs=5e-4)


def test_a_low_price_saves_for_the_layer_in_front():
    """One step in so many, which the prices say; in all others the head alone."""
    net, layers = network()
    cost = costs_of(net, lsam.price(2.0, [layers[0]]), 1)
    front, head = cost([layers[0]]), cost([layers[-1]])
    mean = head + (front - head) / 3.9999  # every fourth step
    assert front > 1.5 > head
    tx = lsam.layerwise_sam(None, RHO, selection=lsam.price(mean, [layers[0]]))
    seen, _ = run(net, tx, steps=12)
    assert seen == 3 * [*3 * [[layers[-1]]], [layers[0]]]


@pytest.mark.slow
def test_a_price_that_affords_everything_is_the_selection_itself():
    net, _ = network()
    for inner, k in (("high", K), ("all", None), ("random", K)):
        got, state = run(net, lsam.layerwise_sam(k, RHO, selection=lsam.price(2.5, inner)), 6)
        want, other = run(net, lsam.layerwise_sam(k, RHO, selection=inner), 6)
        assert got == want
        np.testing.assert_allclose(state.norms, other.norms, rtol=1e-5)


def test_without_gates_all_behind_the_cut_is_paid_for():
    """One cut and no gates: a step that perturbs anything costs nearly two gradients."""
    net, _ = network()
    tx = lsam.layerwise_sam(K, RHO, selection=lsam.price(1.8), cuts=1, gate=False)
    with pytest.raises(ValueError, match=r"price=1.8 is below the cost .* 1.9"):
        run(net, tx, steps=1)
    run(net, lsam.layerwise_sam(K, RHO, selection=lsam.price(1.8), cuts=1, gate=True), steps=1)


def test_steps_that_are_not_finite_cost_as_others_do():
    net, _ = network()
    selection = lsam.price(1.25, "all")
    tx = lsam.layerwise_sam(None, RHO, selection=selection)
    seen, _ = run(net, tx, spoil=range(3, 50, 2))
    assert (means(net, selection, seen, 1) <= 1.25 + 1e-6).all()
    assert sum(len(chosen) > 1 for chosen in seen[10:]) > 3


def test_a_choice_that_is_kept_for_steps_is_paid_for_all_of_them():
    net, layers = network()
    selection = lsam.price(1.25, "high")
    seen, _ = run(net, lsam.layerwise_sam(K, RHO, selection=selection, select_every=4))
    assert all(seen[i] == seen[i - i % 4] for i in range(STEPS))
    assert (means(net, selection, seen) <= 1.25 + 1e-6).all()
    assert any(layers[0] in chosen or layers[1] in chosen for chosen in seen)


@pytest.mark.slow
def test_steps_that_do_not_perturb_pay_in():
    """LookSAM at a price of which every fifth step alone spends."""
    net, layers = network()
    selection = lsam.price(1.2, "all")
    tx = lsam.look_sam(RHO, every=5, selection=selection, layers="kernel")
    seen, _ = run(net, tx)
    assert (means(net, selection, seen, 1) <= 1.2 + 1e-6).all()
    assert [bool(chosen) for chosen in seen] == [i % 5 == 0 for i in range(STEPS)]
    assert [layers[0] in chosen for chosen in seen[5::5]] == 9 * [True]


@pytest.mark.parametrize("name", ["branches", "shared"])
def test_trains_like_the_textbook(name, x64):
    """Every number of every step, the layers being those that are reported."""
    case = zoo.build(name)
    tx = lsam.layerwise_sam(2, RHO, 0.8, selection=lsam.price(1.6 if name == "shared" else 1.3))
    sets = []

    def chosen(norms, reported):
        highest, sizes = textbook.choose(norms, 2, case.order), {1, 2}
        assert reported == highest or len(reported) == 1
        assert len(reported) in sizes
        sets.append(frozenset(reported))
        return reported

    assert_trains_like_textbook(case, tx, chosen, alpha=0.8)
    assert len(set(sets)) > 1


def test_norm_per_cost():
    """Against a sort of norms over the costs that `inspect` shows."""
    net, _ = network()
    rows = lsam.inspect(net.whole, net.params, net.batch).layers
    cost = {row.name: row.cost - 1 for row in rows}
    order = [row.name for row in rows]
    names, rng = lsam.layer_names(net.params), np.random.default_rng(0)
    for selection, largest in (("high", True), ("low", False)):
        tx = lsam.layerwise_sam(K, RHO, selection=lsam.per_cost(selection), cuts=1, gate=False)
        step, differs = jax.jit(lsam.value_and_grad(net.whole, tx)), 0
        for _ in range(6):
            norms = dict(zip(names, np.float32(rng.uniform(0.2, 3, len(names))), strict=True))
            state = tx.init(net.params)._replace(norms=jnp.asarray(list(norms.values())))
            state = step(net.params, state, net.batch)[2]
            got = {n for n, s in zip(names, state.selected, strict=True) if s}
            worth = {n: norms[n] / cost[n] for n in names}
            assert got == textbook.choose(worth, K, order, largest)
            differs += got != textbook.choose(norms, K, order, largest)
        assert differs


@pytest.mark.slow
def test_a_rule_of_the_users_sees_everything():
    """Norms, sizes, places, prices, k, the step, and its own memory."""
    net, _ = network()
    seen = {}

    def select(choice):
        seen.update(choice._asdict(), **choice.network._asdict())
        turn = (choice.memory % len(choice.candidates)) == choice.network.position
        return jnp.asarray(turn), choice.memory + 1

    rule = lsam.Selector(
        lambda network: network.reached,
        init=lambda layers, leaves: jnp.zeros((), jnp.int32),
        select=select,
    )
    chosen, state = run(net, lsam.layerwise_sam(None, RHO, selection=rule), 9)
    layers = net.layers()
    assert chosen == [[layers[i % len(layers)]] for i in range(9)]
    assert int(state.memory.selection) == 9
    assert seen["norms"].shape == (len(layers),)
    assert sorted(seen["sizes"]) == sorted(np.size(net.params[n]["w"]) for n in net.stages)
    assert seen["first"]().shape == seen["price"]().shape == (len(layers),)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: lsam.price(1.0), ValueError, ["mean", "above 1", "1"]),
        (lambda: lsam.price(0.5), ValueError, ["mean", "0.5"]),
        (lambda: lsam.price(NAN), ValueError, ["mean", "nan"]),
        (lambda: lsam.price("1.1"), TypeError, ["mean", "'1.1'"]),
        (lambda: lsam.price(lambda count: 1.1), TypeError, ["mean", "plain number"]),
        (lambda: lsam.price(1.1, "highest"), ValueError, ["selection", "'highest'"]),
        (lambda: lsam.per_cost("all"), ValueError, ["per_cost", "'all'", "high"]),
        (lambda: lsam.layerwise_sam(None, 0.1, selection=lsam.price(1.1)), ValueError, ["k", "4"]),
        (lambda: lsam.layerwise_sam(None, 0.1, selection=lsam.per_cost()), ValueError, ["k"]),
    ],
)
def test_bad_input(make, error, words):
    with refused(error, *words):
        make()


def test_a_price_below_the_cheapest_layer():
    net, layers = network()
    tx = lsam.layerwise_sam(1, RHO, selection=lsam.price(1.0001))
    with refused(ValueError, "price=1.0001", repr(layers[-1]), "at least"):
        lsam.value_and_grad(net.whole, tx)(net.params, tx.init(net.params), net.batch)


@pytest.mark.parametrize("selection", [lsam.price(1.5), lsam.per_cost()])
def test_prices_without_a_loss(selection):
    tx = lsam.layerwise_sam(1, RHO, selection=selection)
    params = {"w": jnp.ones((2, 2))}
    with refused(ValueError, "price", "per_cost", "value_fn", "grad_fn"):
        tx.update(params, tx.init(params), params, grad_fn=lambda w: w)


FACES = ["value_fn", "jit", "explicit", "checked", "unchecked", "m"]


@pytest.mark.slow
@pytest.mark.parametrize("face", FACES)
def test_other_faces_choose_the_same(face, x64):
    """A chain, four devices, parts of a batch: the layers and the account of one device.

    Mapped, the program that is counted is that of a part of the batch: a network as small as this
    one has another relative cost then.
    """
    options = {"k": 1, "rho": RHO, "selection": lsam.price(1.6, lsam.random(2)), "normalize": True}
    whole = jax.jit(lsam.value_and_grad(contract.loss, lsam.layerwise_sam(**options)))
    axis = {"axis_name": "batch"} if face in ("checked", "unchecked") else {}
    tx = lsam.layerwise_sam(**options, **axis)
    kind = AxisType.Explicit if face == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,), devices=jax.devices()[:4])
    step = lsam.value_and_grad(contract.loss, tx)
    place = lay = lambda tree: tree
    if face == "value_fn":

        def step(params, state, *batch):
            value_fn = lambda p: contract.loss(p, *batch)  # noqa: E731
            direction, state = tx.update(params, state, params, value_fn=value_fn)
            return value_fn(params), direction, state

    elif face == "m":
        step = lsam.value_and_grad(contract.loss, tx, m=8, batch_argnums=(1, 2))
    elif axis:
        specs = {"in_specs": (P(), P(), P("batch"), P("batch")), "out_specs": P()}
        step = jax.shard_map(step, mesh=mesh, check_vma=face == "checked", **specs)
    else:
        same, rows = (NamedSharding(mesh, spec) for spec in (P(), P("batch")))
        place, lay = (lambda tree, to=to: jax.device_put(tree, to) for to in (same, rows))
    step, params = jax.jit(step), contract.parameters()
    state, other, seen = place(tx.init(params)), tx.init(params), set()
    for count in range(12):
        batch = contract.batch(count, 8)
        _, got, state = step(place(params), state, *lay(batch))
        _, want, other = whole(params, other, *batch)
        assert (np.asarray(state.selected) == np.asarray(other.selected)).all(), count
        left, of_one = (float(x.memory.selection.balance) for x in (state, other))
        assert axis or left == pytest.approx(of_one, abs=0.02)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-9, atol=1e-12)
        seen.add(tuple(np.asarray(state.selected)))
    assert len(seen) == 2
