"""What a selector of one's own may give, and what a step that chose nothing leaves alone."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

import lsam_jax as lsam
from lsam_jax.components.selector import Choice, highest

PARAMS = {"a": jnp.eye(3), "b": jnp.ones((3, 2))}
X = jnp.linspace(0.1, 1.2, 12).reshape(4, 3)


def loss(params, x):
    return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - 0.1) ** 2)


def step(tx, state=None):
    run = jax.jit(lsam.value_and_grad(loss, tx))
    return run(PARAMS, tx.init(PARAMS) if state is None else state, X)


def both(network):
    return np.ones(2, bool)


def second(network):
    return [False, True]


def gives(selected):
    return lambda *_: selected


@pytest.mark.parametrize(
    ("kind", "words", "rules"),
    [
        (ValueError, ["select", "bool[2]", "bool[1]"], {"select": gives((np.ones(1, bool), ()))}),
        (ValueError, ["draw", "bool[2]", "float64[2]"], {"draw": gives(np.ones(2))}),
        (ValueError, ["candidates", "bool[2]", "[1]"], {"candidates": gives(np.array([1]))}),
        (ValueError, ["candidates", "bool[2]"], {"candidates": gives([0.0, 1.0])}),
        (TypeError, ["candidates", "NumPy"], {"candidates": lambda n: jnp.ones(2) > 0}),
    ],
)
def test_what_is_not_one_bool_for_each_layer_is_refused(kind, words, rules):
    selector = lsam.Selector(**{"candidates": both, **rules})
    with refused(kind, *words):
        step(lsam.layerwise_sam(None, 0.3, selection=selector))


@pytest.mark.parametrize("around", [lambda selector: selector, lambda x: lsam.budget(9.0, x)])
def test_candidates_are_looked_at_wherever_they_are_asked_for(around):
    with refused(ValueError, "candidates", "bool[2]", "[1]"):
        wrong = around(lsam.Selector(lambda network: np.array([1])))
        lsam.inspect(loss, PARAMS, X, selection=wrong, k=None)
    found = around(lsam.Selector(second))
    assert lsam.inspect(loss, PARAMS, X, selection=found, k=None).cuts == ("b",)


@pytest.mark.parametrize("rule", ["draw", "select", "select, known", "draw, as numbers"])
def test_what_is_no_candidate_is_not_chosen(rule):
    kind = int if "numbers" in rule else bool
    everything = np.ones(2, kind) if "known" in rule else jnp.ones(2, kind)
    rules = {"draw": lambda *_: everything, "select": lambda choice: (everything, ())}
    name = rule.split(",")[0]
    selector = lsam.Selector(second, **{name: rules[name]})
    _, found, state = step(lsam.layerwise_sam(None, 0.3, selection=selector))
    assert state.selected.tolist() == [False, True] and state.perturbations.tolist() == [0, 1]
    assert state.selected.dtype == bool
    _, expected, _ = step(lsam.layerwise_sam(None, 0.3, selection=["b"]))
    for n in PARAMS:
        np.testing.assert_allclose(found[n], expected[n], rtol=1e-6)


@pytest.mark.core
def test_the_highest_against_a_sort():
    """Candidates by score, not a number the lowest; then what the loss reaches; then by place."""
    rng, size = np.random.default_rng(0), 7
    values = np.array([-np.inf, -1, -0.0, 0, 2, np.nan], np.float32)
    for k in [*range(size + 1)] * 8:
        score = rng.choice(values, size)
        candidates, reached = rng.random((2, size)) < 0.75
        network = SimpleNamespace(position=rng.permutation(size), reached=reached)

        def rank(i, network=network, score=score):
            number = -np.inf if np.isnan(score[i]) else score[i]
            return -number, not network.reached[i], -network.position[i]

        wanted = sorted(np.flatnonzero(candidates), key=rank)[:k]
        choice = Choice(score, 0, jnp.asarray(k), candidates, network)
        found = highest(jnp.asarray(score), choice)
        assert np.flatnonzero(found).tolist() == sorted(wanted), (score, choice)


def only_first(number):
    return lambda count: jnp.where(count == 0, number, 0 * number)


NOTHING = {
    "k": lambda rho: lsam.layerwise_sam(only_first(1), rho),
    "draw": lambda rho: lsam.layerwise_sam(None, rho, selection=lsam.independent(only_first(1.0))),
    "stale": lambda rho: lsam.with_parts(
        lsam.layerwise_sam(only_first(1), rho), ascent=lsam.stale(rest=1)
    ),
}


@pytest.mark.parametrize("case", NOTHING)
def test_a_step_that_chose_nothing_leaves_what_is_of_another(case):
    tx = NOTHING[case](lambda count: jnp.where(count == 0, 0.3, 0.9))
    first = step(tx)[2]
    then = step(tx, first)[2]
    assert first.selected.any() and not then.selected.any() and int(then.count) == 2
    assert float(first.rho) == pytest.approx(0.3)
    for name in ("rho", "rise", "sharpness", "perturbations"):
        np.testing.assert_array_equal(getattr(then, name), getattr(first, name))
