"""Which layers are chosen: ties, draws, fixed names, budgets."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
import zoo
from training import RHO

import lsam_jax as lsam

WIDE = 6
QUICK = {"cuts": 1, "gate": False}  # compiles in no time, and chooses no differently


def chain_of_layers(length=WIDE):
    """y = x W_0 ... W_n, named so that the leaves stand in the reverse order; no two equal."""
    rng = np.random.default_rng(0)
    names = [f"w{length - i}" for i in range(length)]
    params = {name: jnp.asarray(rng.normal(size=(2, 2)), jnp.float32) for name in names}

    def loss(params, x=1.0):
        y = jnp.full((1, 2), x, jnp.float32)
        for name in names:
            y = jnp.tanh(y @ params[name])
        return jnp.sum(y**2)

    return params, loss, tuple(names)


def selected(tx, params, loss, norms):
    """The layers of one step from these stored norms, given by name."""
    names = lsam.layer_names(params)
    state = tx.init(params)._replace(norms=jnp.asarray([norms[n] for n in names], jnp.float32))
    state = jax.jit(lsam.value_and_grad(loss, tx))(params, state)[2]
    return {n for n, s in zip(names, state.selected, strict=True) if s}


TIES = [
    [0, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 1],
    [2, 1, 1, 1, 1, 2],
    [0, 0, 3, 0, 0, 0],
    [5, 4, 3, 2, 1, 0],
    [1, 0, 1, 0, 1, 0],
    [1e-30, 0, 0, 0, 0, 2e-38],
    [3e38, 3e38, 0, 0, 1, 1],
]


@pytest.mark.core
@pytest.mark.parametrize("selection", ["high", "low"])
@pytest.mark.parametrize("cuts", ["auto", 1])
def test_ties_go_to_the_layer_nearest_the_output(selection, cuts):
    """All ties and all k, against a sort by NumPy."""
    params, loss, order = chain_of_layers()
    names = lsam.layer_names(params)
    assert names == order[::-1]
    tx = lsam.layerwise_sam(lambda count: count, RHO, selection=selection, cuts=cuts)
    step = jax.jit(lsam.value_and_grad(loss, tx))  # k is the step count: one compilation for all
    for norms, k in itertools.product(TIES, range(WIDE + 1)):
        named = dict(zip(order, np.float32(norms), strict=True))
        state = tx.init(params)._replace(
            count=jnp.asarray(k, jnp.int32), norms=jnp.asarray([named[n] for n in names])
        )
        state = step(params, state)[2]
        got = {n for n, s in zip(names, state.selected, strict=True) if s}
        assert got == textbook.choose(named, k, order, largest=selection == "high"), (norms, k)


@pytest.mark.slow
def test_static_and_traced_k_agree():
    params, loss, order = chain_of_layers()
    norms = dict(zip(order, [1, 5, 2, 4, 0, 3], strict=True))
    same = [(3, value) for value in (np.int64(3), jnp.asarray(3), 3.0)]
    every = [(k, value) for k in (0, 3, 6) for value in (k, lambda count, k=k: k)]
    for k, value in same + every:
        got = selected(lsam.layerwise_sam(value, RHO, **QUICK), params, loss, norms)
        assert got == textbook.choose(norms, k, order)


def draws(seed, k, steps):
    """bool[steps, L] of a run with "random", and the same run's count of perturbations."""
    params, loss, _ = chain_of_layers()
    tx = lsam.layerwise_sam(k, 0.0, selection=lsam.random(seed), **QUICK)
    value_and_grad = lsam.value_and_grad(loss, tx)

    def body(state, _):
        state = value_and_grad(params, state)[2]
        return state, state.selected

    state, chosen = jax.jit(lambda s: jax.lax.scan(body, s, length=steps))(tx.init(params))
    return np.asarray(chosen), np.asarray(state.perturbations)


@pytest.mark.core
@pytest.mark.parametrize("k", [1, 2, 5])
def test_random_draws_are_uniform(k):
    """k of L each step; each layer, each pair, and each pair of steps as often as by chance."""
    steps = 3000
    chosen, perturbations = draws(0, k, steps)
    assert (chosen.sum(1) == k).all()
    assert (chosen.sum(0) == perturbations).all()
    p, pair = k / WIDE, k * (k - 1) / (WIDE * (WIDE - 1))

    def within_four_sigma(frequency, p, overlap=0):
        sigma = np.sqrt((p * (1 - p) + overlap) / steps)
        return (np.abs(frequency - p) <= 4 * sigma + 1e-12).all()

    assert within_four_sigma(chosen.mean(0), p)
    assert within_four_sigma(
        np.array([(chosen[:, i] & chosen[:, j]).mean() for i in range(WIDE) for j in range(i)]),
        pair,
    )
    # A pair shares a step with the next one: twice the covariance of x_1 x_2 and x_2 x_3.
    overlap = 2 * (p**3 - p**4)
    assert within_four_sigma((chosen[1:] & chosen[:-1]).mean(0), p * p, overlap)


def test_random_draws_repeat_by_seed():
    first, again, other = (draws(seed, 2, 50)[0] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("selector", "which"),
    [
        (lsam.fixed, slice(1)),
        (lambda names: lsam.fixed(n for n in names), slice(2)),
        (list, slice(None, None, 3)),
        (tuple, slice(None, None, -1)),
    ],
)
def test_fixed(selector, which):
    params, loss, order = chain_of_layers()
    names = order[which]
    tx = lsam.layerwise_sam(None, RHO, selection=selector(names))
    assert selected(tx, params, loss, dict.fromkeys(order, 0)) == set(names)


SELECTORS = {
    "high": lsam.high,
    "low": lsam.low,
    "random": lsam.random,
    "all": lsam.everything,
    "none": lsam.nothing,
}


@pytest.mark.parametrize("name", SELECTORS)
def test_names_stand_for_selectors(name):
    params, loss, order = chain_of_layers()
    norms = dict(zip(order, [1, 5, 2, 4, 0, 3], strict=True))
    one, two = (
        selected(lsam.layerwise_sam(2, RHO, selection=s, **QUICK), params, loss, norms)
        for s in (name, SELECTORS[name]())
    )
    assert one == two
    assert len(one) == {"all": WIDE, "none": 0}.get(name, 2)


def test_a_selector_of_the_users():
    """Candidates fixed beforehand, scores at run time: the weakest of the last three."""
    params, loss, order = chain_of_layers()
    norms = dict(zip(order, [0, 1, 2, 5, 4, 6], strict=True))
    weakest = lsam.Selector(
        candidates=lambda network: network.position >= WIDE - 3,
        score=lambda norms, count: -norms,
    )
    assert selected(lsam.layerwise_sam(1, RHO, selection=weakest), params, loss, norms) == {
        order[4]
    }


@pytest.mark.core
@pytest.mark.parametrize("rule", ["select", "draw"])
@pytest.mark.parametrize("kind", [np.asarray, lambda mask: np.asarray(mask, int), jnp.asarray])
def test_a_rule_of_the_users_may_choose_by_numpy(rule, kind):
    """Those that it chooses move, and no others: as with a list of their names."""
    params, loss, order = chain_of_layers()
    some = [order[1], order[3]]
    mask = kind([n in some for n in lsam.layer_names(params)])
    rules = {"select": lambda choice: (mask, choice.memory), "draw": lambda *_: mask}
    ours = lsam.Selector(lambda network: np.ones(WIDE, bool), **{rule: rules[rule]})

    def directions(selection):
        tx = lsam.layerwise_sam(None, RHO, selection=selection, normalize=True, **QUICK)
        state = tx.init(params)
        _, by_loss, after = jax.jit(lsam.value_and_grad(loss, tx))(params, state)
        by_gradient, same = tx.update(jax.grad(loss)(params), state, params, grad_fn=jax.grad(loss))
        return by_loss, by_gradient, after.selected, same.selected

    chex.assert_trees_all_close(directions(ours), directions(some), rtol=1e-5)


# A budget: the extra cost of a step is counted on compiled programs in test_flops.


def affordable(fraction, selection="all", k=None, norms=None):
    params, loss, order = chain_of_layers()
    tx = lsam.layerwise_sam(k, RHO, selection=lsam.budget(fraction, selection), **QUICK)
    return selected(tx, params, loss, norms or dict.fromkeys(order, 0)), order


@pytest.mark.slow
@pytest.mark.core
def test_a_budget_affords_the_last_layers():
    """Ever more, from the output on, and at last all."""
    sizes = []
    for fraction in (0.2, 0.35, 0.5, 0.7, 0.9, 1.1):
        names, order = affordable(fraction)
        assert names == set(order[len(order) - len(names) :])
        sizes.append(len(names))
    assert sizes == sorted(sizes)
    assert sizes[0] < WIDE
    assert sizes[-1] == WIDE
    assert len(set(sizes)) > 3


@pytest.mark.parametrize("selection", ["high", "low", "random"])
def test_selection_within_a_budget(selection):
    within, order = affordable(0.5)
    norms = dict(zip(order, [9, 8, 1, 2, 4, 3], strict=True))
    names, _ = affordable(0.5, selection, k=1, norms=norms)
    assert names <= within
    last = [n for n in order if n in within]
    if selection != "random":
        assert names == textbook.choose(norms, 1, last, largest=selection == "high")
    everything, _ = affordable(0.5, selection, k=len(order), norms=norms)
    assert everything == within


def test_a_step_counts_its_perturbations(x64):
    case = zoo.build("branches")
    tx = lsam.layerwise_sam(2, RHO)
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))
    state, total = tx.init(case.params), 0
    for batch in case.batches:
        state = step(case.params, state, batch)[2]
        total += state.selected.astype(int)
    assert (state.perturbations == total).all()
