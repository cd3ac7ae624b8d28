"""Bad arguments: an error that names the argument, its value and the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import INF, NAN, Loss, ids, one_step, parameters, refused

import lsam_jax as lsam
from lsam_jax import diagnostics

# What is wrong whatever the parameters are: refused by layerwise_sam itself.
ARGUMENTS = [
    ({"k": -1}, ValueError, ["k", "-1", "at least 0"]),
    ({"k": 1.5}, ValueError, ["k", "1.5", "whole"]),
    ({"k": None}, ValueError, ["k", "None"]),
    ({"k": "4"}, TypeError, ["k", "'4'"]),
    ({"k": NAN}, ValueError, ["k", "nan"]),
    ({"k": jnp.asarray([1, 2])}, TypeError, ["k"]),
    ({"rho": -0.1}, ValueError, ["rho", "-0.1", "at least 0"]),
    ({"rho": NAN}, ValueError, ["rho", "nan", "finite"]),
    ({"rho": INF}, ValueError, ["rho", "inf", "finite"]),
    ({"rho": -INF}, ValueError, ["rho", "-inf"]),
    ({"rho": np.float32(-0.5)}, ValueError, ["rho", "-0.5"]),
    ({"rho": jnp.asarray(-0.5)}, ValueError, ["rho", "-0.5"]),
    ({"rho": None}, TypeError, ["rho", "None"]),
    ({"rho": "0.1"}, TypeError, ["rho", "'0.1'"]),
    ({"rho": 1j}, TypeError, ["rho", "1j"]),
    ({"alpha": NAN}, ValueError, ["alpha", "nan", "finite"]),
    ({"alpha": INF}, ValueError, ["alpha", "inf", "finite"]),
    ({"alpha": None}, TypeError, ["alpha", "None"]),
    ({"selection": "highest"}, ValueError, ["selection", "'highest'", "high", "low", "random"]),
    ({"selection": 3}, TypeError, ["selection", "3"]),
    ({"selection": lambda: None}, TypeError, ["selection"]),
    ({"selection": lsam.high}, TypeError, ["selection", "high"]),
    ({"normalize": "global"}, ValueError, ["normalize", "'global'", "False", "True", "layer"]),
    ({"normalize": None}, ValueError, ["normalize", "None"]),
    ({"select_every": 0}, ValueError, ["select_every", "0", "at least 1"]),
    ({"select_every": 2.5}, ValueError, ["select_every", "2.5"]),
    ({"norm_decay": -0.1}, ValueError, ["norm_decay", "-0.1"]),
    ({"norm_decay": 1.0}, ValueError, ["norm_decay", "1"]),
    ({"norm_decay": NAN}, ValueError, ["norm_decay", "nan"]),
    ({"cuts": "all"}, ValueError, ["cuts", "'all'", "auto"]),
    ({"cuts": 0}, ValueError, ["cuts", "0"]),
    ({"cuts": True}, ValueError, ["cuts", "True"]),
    ({"cuts": 1.5}, ValueError, ["cuts", "1.5"]),
    ({"cuts": [0, 1]}, ValueError, ["cuts", "[0, 1]"]),
    ({"gate": "yes"}, ValueError, ["gate", "'yes'"]),
    ({"gate": 1}, ValueError, ["gate", "1", "None"]),
]


@pytest.mark.parametrize(("argument", "kind", "words"), ARGUMENTS, ids=ids(ARGUMENTS))
def test_arguments(argument, kind, words):
    with refused(kind, *words):
        lsam.layerwise_sam(**{"k": 1, "rho": 0.1, **argument})


@pytest.mark.parametrize("rho", [-0.1, NAN, INF])
@pytest.mark.parametrize("method", [lsam.sam, lsam.generalized_sam])
def test_arguments_of_methods(method, rho):
    with refused(ValueError, "rho", str(rho)):
        method(rho)


# What is wrong with these parameters: refused by init, and by a step, which may be given any state.
FOR_PARAMETERS = [
    ({"k": 3}, ValueError, ["k", "3", "2 layers", "body/w", "head/w"]),
    ({"k": 100}, ValueError, ["k", "100", "2 layers"]),
    ({"layers": "kernels"}, ValueError, ["layers", "'kernels'", "kernel", "module"]),
    ({"layers": [("conv", "c")]}, ValueError, ["layers", "conv", "body/w", "body/b", "head/w"]),
    ({"layers": []}, ValueError, ["layers", "[]", "body/w", "body/b", "head/w"]),
    ({"layers": lambda path: None}, ValueError, ["layers", "body/w", "body/b", "head/w"]),
    ({"layers": lambda path: 3}, TypeError, ["layers", "3", "body/b"]),
    ({"layers": [("(", "c")]}, ValueError, ["layers", "("]),
    ({"layers": [("body", "c", "d")]}, ValueError, ["layers", "body"]),
    ({"layers": ["body"]}, ValueError, ["layers", "body"]),
    (
        {"selection": ["body/w", "tail/w"]},
        ValueError,
        ["selection", "'tail/w'", "body/w", "head/w"],
    ),
    ({"selection": lsam.fixed(["body"])}, ValueError, ["selection", "'body'", "body/w"]),
    ({"cuts": ["middle/w"]}, ValueError, ["cuts", "'middle/w'", "body/w", "head/w"]),
]


@pytest.mark.parametrize(("argument", "kind", "words"), FOR_PARAMETERS, ids=ids(FOR_PARAMETERS))
@pytest.mark.parametrize("at", ["init", "step"])
def test_arguments_that_do_not_fit_the_parameters(argument, kind, words, at):
    loss, state = Loss(), lsam.layerwise_sam(1, 0.1).init(parameters())
    with refused(kind, *words, loss=loss):
        if at == "init":
            lsam.layerwise_sam(**{"k": 1, "rho": 0.1, **argument}).init(parameters())
        else:
            one_step(loss, state=state, **argument)


BUDGETS = [
    (-0.1, ValueError, ["fraction", "-0.1"]),
    (NAN, ValueError, ["fraction", "nan"]),
    (INF, ValueError, ["fraction", "inf"]),
    (lambda count: 0.1, TypeError, ["fraction"]),
    ("0.1", TypeError, ["fraction", "'0.1'"]),
]


@pytest.mark.parametrize(("fraction", "kind", "words"), BUDGETS, ids=ids(BUDGETS))
def test_budgets(fraction, kind, words):
    with refused(kind, *words):
        lsam.budget(fraction)


def test_a_budget_that_affords_nothing():
    loss = Loss()
    with refused(ValueError, "budget(fraction=1e-06)", "cheapest", loss=loss):
        one_step(loss, selection=lsam.budget(1e-6))


def test_fixed_takes_a_list():
    for names in ("head/w", [0, 1], 3):
        with refused(TypeError, "names", repr(names)):
            lsam.fixed(names)


@pytest.mark.parametrize("k", [0, 3])
def test_inspect_of_too_many_layers(k):
    loss = Loss()
    with refused(ValueError, "k", str(k), "2", loss=loss):
        lsam.inspect(loss, parameters(), k=k)


def test_inspect_without_a_number_of_layers():
    """As the methods take it: where the selection needs none."""
    cuts = [lsam.inspect(Loss(), parameters(), k=k, selection=["body/w"]).cuts for k in (None, 1)]
    assert cuts[0] == cuts[1] == ("body/w",)
    with refused(ValueError, "k is None", "k=4"):
        lsam.inspect(Loss(), parameters(), k=None)
    with refused(TypeError, "k", "'2'"):
        lsam.inspect(Loss(), parameters(), k="2")


W, SUM = jnp.ones(2), lambda w, x: jnp.sum(w * x)
KINDS = [
    (lambda: lsam.per_sample(SUM, 1.5), ValueError, ["argnums", "1.5"]),
    (
        lambda: lsam.value_and_grad(SUM, lsam.sam(), m=2, batch_argnums=1.5),
        ValueError,
        ["batch_argnums", "1.5"],
    ),
    (
        lambda: lsam.flat_lora(jnp.ones((2, 2)), 0, rho=0.1, steps=2, seed="a"),
        TypeError,
        ["seed", "'a'"],
    ),
    (lambda: diagnostics.sam_ball(jnp.sum, W, rho="a"), TypeError, ["rho", "'a'"]),
    (lambda: lsam.sam(rho=[[1.0], [1.0, 2.0]]), TypeError, ["rho", "[[1.0], [1.0, 2.0]]"]),
    (lambda: lsam.presets.le_sam(lambda count: 10), TypeError, ["steps", "schedule"]),
    (lambda: lsam.presets.le_sam(10, anneal=lambda count: 0.1), TypeError, ["anneal", "schedule"]),
    (lambda: lsam.presets.le_sam(10, sigma=lambda count: 0.1), TypeError, ["sigma", "schedule"]),
]


@pytest.mark.parametrize(("make", "kind", "words"), KINDS, ids=ids(KINDS))
def test_arguments_of_another_kind(make, kind, words):
    with refused(kind, *words):
        make()


def test_positions_may_be_numpys():
    loss = lsam.per_sample(lambda w, x: w * x, np.int64(1))
    assert loss.argnums == (1,)


TRACED = {
    "rest": lambda x: lsam.stale(rest=x),
    "reach": lambda x: lsam.rise(0.3, reach=x),
    "bounds": lambda x: lsam.rise(0.3, bounds=(x, 10.0)),
    "steps": lsam.presets.le_sam,
    "anneal": lambda x: lsam.presets.le_sam(10, anneal=x),
}


@pytest.mark.parametrize("name", TRACED)
def test_what_must_be_known_before_compilation(name):
    with refused(TypeError, name, "plain number"):
        jax.jit(lambda x: (TRACED[name](x), 0)[1])(1.0)


SCHEDULE = lambda count: 0.5  # noqa: E731
NUMBERS = [
    (lambda: lsam.layerwise_sam(1, 0.1, norm_decay=SCHEDULE), ["norm_decay"]),
    (lambda: lsam.layerwise_sam(1, 0.1, select_every=SCHEDULE), ["select_every"]),
    (lambda: lsam.asam(eta=SCHEDULE), ["eta"]),
    (lambda: lsam.ae_sam(decay=SCHEDULE), ["decay"]),
    (lambda: lsam.f_sam(decay=SCHEDULE), ["decay", "f_sam"]),
    (lambda: lsam.momentum_sam(momentum=SCHEDULE), ["momentum"]),
    (lambda: lsam.gam(step=SCHEDULE), ["step"]),
    (lambda: lsam.adazo_sam(step=SCHEDULE), ["step", "adazo"]),
    (lambda: lsam.bandit(active=SCHEDULE), ["active"]),
    (lambda: lsam.bandit(rate=SCHEDULE), ["rate"]),
    (lambda: lsam.stale(rest=SCHEDULE), ["rest"]),
    (lambda: lsam.rise(0.3, first=SCHEDULE), ["first"]),
    (lambda: lsam.rise(0.3, bounds=(0.1, SCHEDULE)), ["bounds"]),
    (lambda: lsam.rise(0.3, averages=(SCHEDULE, 0.5)), ["averages"]),
    (lambda: lsam.rise(0.3, reach=SCHEDULE), ["reach"]),
    (lambda: lsam.rise(share=0.3, cap=SCHEDULE), ["cap"]),
    (lambda: lsam.suggest_rho(jnp.sum, jnp.ones(2), target=SCHEDULE), ["target"]),
]


@pytest.mark.parametrize(("make", "words"), NUMBERS, ids=ids(NUMBERS))
def test_where_no_schedule_is_taken_it_says_so(make, words):
    with refused(TypeError, words[0], "a number, not a schedule"):
        make()


def test_a_number_of_cuts_may_be_numpys():
    for cuts in (2, np.int64(2)):
        one_step(cuts=cuts)


@pytest.mark.parametrize("state", [None, (1, 2), 0.5])
@pytest.mark.parametrize("samples", ["even", "rotating"])
def test_a_state_is_looked_at_first(state, samples):
    tx, loss = lsam.sam(0.1), Loss()
    step = lsam.value_and_grad(lambda w, x: loss(w), tx, ascent_batch=0.5, ascent_samples=samples)
    with refused(TypeError, "state", "SamState", type(state).__name__, "tx.init(params)"):
        step(parameters(), state, jnp.ones((4, 2)))


@pytest.mark.parametrize("state", [{"rho": 1.0}, (1, 2)])
def test_inspect_of_another_state(state):
    with refused(TypeError, "sam_state", "SamState", type(state).__name__):
        lsam.inspect(Loss(), parameters(), sam_state=state)


@pytest.mark.parametrize("layers", [None, 5, lsam.stacked("head", layers=None)])
def test_layers_that_are_no_rule(layers):
    with refused(ValueError, "layers", '"kernel"', "(regex, name)", "None" if layers != 5 else "5"):
        lsam.sam(0.1, layers=layers).init(parameters())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("(w)", r"\2"), ["layers", "invalid group reference 2"]),
        (("w", 3), ["layers", "must be a str or None"]),
        (("w", len), ["layers", "must be a str or None"]),
    ],
)
def test_a_rule_whose_name_is_none(rule, words):
    with refused(ValueError, *words):
        lsam.layer_names(parameters(), layers=[rule])


def test_parameters_that_are_one_vector_are_not_called_none():
    with refused(ValueError, "layers='kernel'", "The paths are: ''."):
        lsam.sam(0.1, layers="kernel").init(jnp.ones(3))


@pytest.mark.parametrize(
    ("seed", "kind", "words"),
    [
        *((seed, TypeError, ["jax.random.key"]) for seed in (None, "0", 0.5)),
        *((seed, ValueError, ["2**32"]) for seed in (2**32, -(2**31) - 1, np.int64(2**40), 10**30)),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lsam.random,
        lambda seed: lsam.independent(0.5, seed),
        lambda seed: lsam.bandit(seed=seed),
        lambda seed: lsam.bernoulli(0.5, seed),
        lambda seed: lsam.esam(seed=seed),
        lambda seed: lsam.sl_sam(seed=seed),
        lambda seed: lsam.sparse_sam(seed=seed),
        lambda seed: lsam.sparse_sam(seed=seed, dynamic=True),
        lambda seed: lsam.adazo_sam(seed=seed),
    ],
)
def test_a_seed_is_a_whole_number_or_a_key(make, seed, kind, words):
    with refused(kind, "seed", repr(seed), *words):
        make(seed)


@pytest.mark.parametrize("schedule", [lambda count: jnp.ones(2), lambda count: [0.1]])
def test_a_schedule_gives_one_number(schedule):
    with refused(TypeError, "schedule", "one number", "shape"):
        tx = lsam.sam(schedule)
        lsam.value_and_grad(Loss(), tx)(parameters(), tx.init(parameters()))
