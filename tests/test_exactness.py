"""Layer-wise SAM is the textbook's, to 1e-10 of every array, over five steps of training.

Covered: every model x selection x normalize; x alpha too on SMALL networks, and on the others one
alpha each, such that every model meets each alpha with each selection and with each normalize, and
every triple is met by half of the models. "high", "low" and "random" compile the whole engine (a
switch over cuts, gates), the others one cut.
"""

import functools
import itertools

import jax
import pytest
import textbook
import zoo
from training import RHO, assert_trains_like_textbook

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

K, BUDGET = 2, 0.6
SELECTIONS = ("high", "low", "random", "all", "none", "fixed", "budget")
NORMALIZE, ALPHAS = (False, True, "layer"), (0.8, 1.0)
SMALL = ("branches", "unused")
CORE = {("high", False, 0.8), ("random", True, 1.0)}  # what runs on every supported version


def combinations():
    every = map(enumerate, (zoo.MODELS, SELECTIONS, NORMALIZE, ALPHAS))
    for (m, model), (s, selection), (n, normalize), (a, alpha) in itertools.product(*every):
        core = (selection, normalize, alpha) in CORE
        if model in SMALL or core or (m + s + n + a) % 2:
            marks = [pytest.mark.core] * core
            yield pytest.param(model, selection, normalize, alpha, marks=marks)


@pytest.mark.parametrize(("model", "selection", "normalize", "alpha"), list(combinations()))
def test_equals_textbook(model, selection, normalize, alpha):
    case = zoo.build(model)
    selector = {
        "fixed": [case.order[1], case.order[-1]],
        "budget": lsam.budget(BUDGET),
        "random": lsam.random(seed=3),
    }.get(selection, selection)
    k = None if selection in ("all", "none", "fixed") else K
    tx = lsam.layerwise_sam(k, RHO, alpha, selection=selector, normalize=normalize)
    assert_trains_like_textbook(case, tx, choice(model, selection), alpha, normalize)


def choice(model, selection):
    """The textbook's choice; random draws are taken as reported (test_selection has their law)."""
    case = zoo.build(model)
    match selection:
        case "high":
            return lambda norms, reported: textbook.choose(norms, K, case.order)
        case "low":
            return lambda norms, reported: textbook.choose(norms, K, case.order, largest=False)
        case "random":
            return lambda norms, reported: reported
        case "all":
            return lambda norms, reported: set(case.order)
        case "none":
            return lambda norms, reported: set()
        case "fixed":
            return lambda norms, reported: {case.order[1], case.order[-1]}
        case "budget":
            return lambda norms, reported: textbook.choose(norms, K, affordable(model))


@functools.cache
def affordable(model):
    """The layers within the budget, from input to output (test_prices has what they cost)."""
    case = zoo.build(model)
    tx = lsam.layerwise_sam(None, RHO, selection=lsam.budget(BUDGET, "all"))
    value_and_grad = lsam.value_and_grad(case.loss, tx, has_aux=True)
    state = jax.jit(value_and_grad)(case.params, tx.init(case.params), case.batches[0])[2]
    names = [n for n, s in zip(lsam.layer_names(case.params), state.selected) if s]
    return [n for n in case.order if n in names]
