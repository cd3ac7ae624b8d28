"""Layer-wise SAM is the textbook's, to 1e-10 of every array, over five steps of training.

Covered: on the first model every selection x normalize x alpha, but "low" and "random" with two of
them and "none" with one; on every model each of KINDS, and each normalize with each alpha once, the
two being shifted from model to model, such that a kind meets them all too. "high", "low" and
"random" compile the whole engine (a switch over cuts, gates) and differ in the choice alone, the
others compile one cut; where nothing is perturbed, nothing is normalized or mixed.
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
MIXES = tuple(itertools.product((False, True, "layer"), (0.8, 1.0)))  # normalize, alpha
FEWER = dict.fromkeys(("low", "random"), ((True, 0.8), ("layer", 1.0))) | {"none": ((True, 0.8),)}
KINDS = ("high", ("low", "random"), "all", "none", "fixed", "budget")
CORE = ("random", "fixed", "budget")  # runs on every supported version, and "high" of all models


def combinations():
    first, *others = zoo.MODELS
    for selection, (normalize, alpha) in itertools.product(SELECTIONS, MIXES):
        if (normalize, alpha) not in FEWER.get(selection, MIXES):
            continue
        core = normalize is True and alpha == 0.8 and selection in ("high", *CORE)
        yield row(first, selection, normalize, alpha, core)
    for (m, model), (s, kind) in itertools.product(enumerate(others), enumerate(KINDS)):
        selection = kind if isinstance(kind, str) else kind[m % 2]
        yield row(model, selection, *MIXES[(m + s) % len(MIXES)], selection == "high")


def row(*arguments_and_core):
    *arguments, core = arguments_and_core
    return pytest.param(*arguments, marks=[pytest.mark.core] * core)


@pytest.mark.slow
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
