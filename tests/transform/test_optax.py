"""The two Optax faces, and how they compose with what Optax has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
import zoo
from training import (
    LR,
    MOMENTUM,
    RHO,
    assert_same,
    textbook_gradient,
    train,
)

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

MODELS = ("branches", "remat_blocks", "convolutions")


def chain_training(case, optimizer, face):
    """Trains as Optax users do; yields updates and state of every step."""

    @jax.jit
    def step(params, state, batch):
        def value_fn(params):
            return case.loss(params, batch)[0]

        grads = jax.grad(value_fn)(params)
        extra = {"value_fn": {"value_fn": value_fn}, "grad_fn": {"grad_fn": jax.grad(value_fn)}}[
            face
        ]
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    params, state = case.params, optimizer.init(case.params)
    for batch in case.batches:
        params, state = step(params, state, batch)
        yield params, state


def sam_state(state):
    found = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, lsam.SamState))
    (state,) = [s for s in found if isinstance(s, lsam.SamState)]
    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "normalize"),
    [("branches", False), ("branches", True), ("remat_blocks", "layer"), ("convolutions", True)],
)
def test_value_fn_in_a_chain_is_value_and_grad(model, normalize):
    case = zoo.build(model)
    tx = lsam.layerwise_sam(2, RHO, 0.8, normalize=normalize)
    chain = optax.chain(tx, optax.sgd(LR, momentum=MOMENTUM))
    for (params, state), want in zip(
        chain_training(case, chain, "value_fn"), train(case, tx), strict=True
    ):
        assert_same(params, want.params)
        assert_same(sam_state(state), want.state)


@pytest.mark.core
@pytest.mark.parametrize(
    ("model", "normalize", "selection"),
    [
        ("branches", False, "high"),
        ("branches", True, "low"),
        ("branches", "layer", "all"),
        ("branches", False, "none"),
        ("remat_blocks", True, "high"),
        ("remat_blocks", "layer", "low"),
        ("convolutions", "layer", "high"),
        ("convolutions", True, "all"),
    ],
)
def test_grad_fn_is_the_textbook(model, normalize, selection):
    """Here ties go to the last layer in tree order: no loss is there to tell the network's."""
    case = zoo.build(model)
    k = 2 if selection in ("high", "low") else None
    tx = lsam.layerwise_sam(k, RHO, 0.8, selection=selection, normalize=normalize)
    chain = optax.chain(tx, optax.sgd(LR, momentum=MOMENTUM))
    names = lsam.layer_names(case.params)
    count = {"all": len(names), "none": 0}.get(selection, k)
    params, norms, descend = case.params, dict.fromkeys(names, 0.0), textbook.Momentum(LR, MOMENTUM)
    steps = chain_training(case, chain, "grad_fn")
    for batch, (got, chain_state) in zip(case.batches, steps, strict=True):
        chosen = textbook.choose(norms, count, names, largest=selection != "low")
        gradient = textbook_gradient(case.loss)
        want = textbook.step(gradient, params, batch, chosen, RHO, 0.8, normalize)
        params, norms = descend(params, want.direction), want.norms
        assert_same(got, params)
        state = sam_state(chain_state)
        assert {n for n, s in zip(names, state.selected, strict=True) if s} == chosen
        assert_same(state.norms, np.float32([norms[n] for n in names]))


def test_grad_fn_takes_any_gradient():
    """Not the gradient of any loss, and called exactly once, at the perturbed weights."""
    A = np.random.default_rng(0).normal(size=(4, 4))
    tx = lsam.layerwise_sam(1, RHO)
    w = {"w": jnp.ones((4, 1))}
    calls = []

    def grad_fn(w):
        calls.append(w["w"])
        return {"w": A @ w["w"]}

    direction, state = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
    there = np.ones((4, 1)) + RHO * A @ np.ones((4, 1))
    assert len(calls) == 2
    assert_same(calls[1], there)
    assert_same(direction["w"], A @ there)
    estimate = RHO * np.sum((A @ np.ones((4, 1))) ** 2)  # <g, eps>
    assert state.sharpness == pytest.approx(estimate, rel=1e-6)


def test_grad_fn_may_take_the_step_index_of_optax_contrib_sam():
    tx = lsam.layerwise_sam(1, RHO)
    w = {"w": jnp.ones((2, 2))}
    one, _ = tx.update(w, tx.init(w), w, grad_fn=lambda p: p)
    two, _ = tx.update(w, tx.init(w), w, grad_fn=lambda p, i: p)
    assert_same(one, two)
    assert_same(one["w"], (1 + RHO) * np.ones((2, 2)))


def test_unknown_arguments_are_ignored():
    tx = optax.chain(lsam.layerwise_sam(1, RHO), optax.scale(-1.0))
    w = {"w": jnp.ones((2, 2))}
    extra = {"value": 1.0, "grad": w, "anything": "at all"}
    one, _ = tx.update(w, tx.init(w), w, value_fn=lambda p: jnp.sum(p["w"] ** 2) / 2, **extra)
    assert_same(one["w"], -(1 + RHO) * np.ones((2, 2)))


@pytest.mark.core
@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
def test_schedules_of_rho_alpha_and_k(face):
    """Against the textbook with each step's own numbers, taken from the same count."""
    case = zoo.build("branches")
    rhos, alphas, ks = [0.05, 0.1, 0.15, 0.2, 0.25], [1.0, 0.9, 0.8, 0.7, 0.6], [1, 3, 0, 5, 2]
    tx = lsam.layerwise_sam(
        k=lambda count: jnp.asarray(ks)[count],
        rho=optax.linear_schedule(0.05, 0.25, 4),
        alpha=optax.linear_schedule(1.0, 0.6, 4),
    )
    chain = optax.chain(tx, optax.sgd(LR, momentum=MOMENTUM))
    names = lsam.layer_names(case.params)
    order = case.order if face == "value_fn" else names
    params, norms, descend = case.params, dict.fromkeys(names, 0.0), textbook.Momentum(LR, MOMENTUM)
    steps = zip(case.batches, rhos, alphas, ks, chain_training(case, chain, face), strict=True)
    for batch, rho, alpha, k, (got, state) in steps:
        chosen = textbook.choose(norms, k, order)
        want = textbook.step(textbook_gradient(case.loss), params, batch, chosen, rho, alpha)
        params, norms = descend(params, want.direction), want.norms
        assert int(sam_state(state).selected.sum()) == k
        assert_same(got, params, 1e-6)  # Optax's schedules compute in float32


def test_inject_hyperparams():
    """rho can be set from outside, and is seen."""
    case = zoo.build("branches")
    tx = optax.inject_hyperparams(lsam.layerwise_sam, static_args=("k",))(k=2, rho=0.1, alpha=0.8)
    assert set(tx.init(case.params).hyperparams) >= {"rho", "alpha"}
    plain = lsam.layerwise_sam(2, 0.3, 0.8)

    def value_fn(params):
        return case.loss(params, case.batches[0])[0]

    @jax.jit
    def update(state):
        return tx.update(case.params, state, case.params, value_fn=value_fn)[0]

    state = tx.init(case.params)
    state.hyperparams["rho"] = jnp.asarray(0.3)
    want, _ = jax.jit(lambda s: plain.update(case.params, s, case.params, value_fn=value_fn))(
        plain.init(case.params)
    )
    assert_same(update(state), want, 1e-6)


@pytest.mark.slow
def test_inject_hyperparams_with_schedules():
    case = zoo.build("branches")
    rho = optax.linear_schedule(0.05, 0.25, 4)
    injected = optax.inject_hyperparams(lsam.layerwise_sam)(k=2, rho=rho, alpha=0.8)
    chains = [optax.chain(tx, optax.sgd(LR)) for tx in (injected, lsam.layerwise_sam(2, rho, 0.8))]
    runs = [list(chain_training(case, chain, "value_fn")) for chain in chains]
    for (got, got_state), (want, want_state) in zip(*runs, strict=True):
        assert_same(got, want, 1e-6)
        assert_same(sam_state(got_state).selected, sam_state(want_state).selected)


WRAPPERS = {
    "named_chain": lambda tx, base: optax.named_chain(("sam", tx), ("sgd", base)),
    "apply_if_finite": lambda tx, base: optax.apply_if_finite(optax.chain(tx, base), 3),
    "clip": lambda tx, base: optax.chain(tx, optax.clip_by_global_norm(1e6), base),
    "partition": lambda tx, base: optax.chain(
        tx, optax.partition({"all": base}, lambda params: jax.tree.map(lambda _: "all", params))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_change_nothing(wrapper):
    case = zoo.build("branches")
    tx, base = lsam.layerwise_sam(2, RHO, 0.8), optax.sgd(LR, momentum=MOMENTUM)
    wrapped = WRAPPERS[wrapper](tx, base)
    for (params, _), want in zip(
        chain_training(case, wrapped, "value_fn"), train(case, tx), strict=True
    ):
        assert_same(params, want.params)


def kernels_apart(params):
    return jax.tree.map(lambda w: "kernel" if w.ndim > 1 else "other", params)


COMPOSED = {
    "schedule_free": lambda tx: optax.contrib.schedule_free(optax.chain(tx, optax.sgd(LR)), LR),
    "apply_if_finite": lambda tx: optax.apply_if_finite(optax.chain(tx, optax.adam(LR)), 3),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(
        lambda rate: optax.chain(tx, optax.sgd(rate))
    )(optax.linear_schedule(LR, 0.0, 5)),
    "lbfgs": lambda tx: optax.chain(
        tx, optax.lbfgs(memory_size=2, linesearch=optax.scale_by_backtracking_linesearch(5))
    ),  # the default line search too, but it takes long to compile
    "partition": lambda tx: optax.chain(
        tx,
        optax.partition({"kernel": optax.sgd(LR), "other": optax.set_to_zero()}, kernels_apart),
    ),
    "masked": lambda tx: optax.chain(
        tx,
        optax.masked(
            optax.add_decayed_weights(0.1),
            lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
        ),
        optax.adam(LR),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSED)
def test_others_descend_the_textbook_direction(name):
    """Around or behind, they do what they do alone with the textbook's direction as gradient."""
    case = zoo.build("branches")
    tx = COMPOSED[name](lsam.layerwise_sam(2, RHO, 0.8, cuts=1, gate=False))  # quick to compile
    alone = COMPOSED[name](optax.identity())

    @functools.partial(jax.jit, static_argnums=0)
    def update(optimizer, gradient, state, params, batch):
        def value_fn(params):
            return case.loss(params, batch)[0]

        value, grad = jax.value_and_grad(value_fn)(params)
        extra = {"value": value, "grad": grad, "value_fn": value_fn}
        return optimizer.update(gradient, state, params, **extra)

    params, norms = case.params, dict.fromkeys(lsam.layer_names(case.params), 0.0)
    state, state_alone = tx.init(params), alone.init(params)
    for batch in case.batches:
        chosen = textbook.choose(norms, 2, case.order)
        want = textbook.step(textbook_gradient(case.loss), params, batch, chosen, RHO, 0.8)
        norms, direction = want.norms, textbook.unnamed(want.direction, params)
        expected, state_alone = update(alone, direction, state_alone, params, batch)
        updates, state = update(tx, params, state, params, batch)
        assert_same(updates, expected)
        params = optax.apply_updates(params, expected)


def running_mean(old, new, decay):
    """The first norms are taken whole: before them there is nothing to average with."""
    return {n: decay * old[n] + (1 - decay) * new[n] if any(old.values()) else new[n] for n in new}


@pytest.mark.core
@pytest.mark.parametrize(("decay", "every"), [(0.0, 2), (0.0, 3), (0.7, 1), (0.9, 2)])
def test_norm_decay_and_select_every(decay, every):
    case = zoo.build("shared")
    tx = lsam.layerwise_sam(2, RHO, 0.8, norm_decay=decay, select_every=every)
    names = lsam.layer_names(case.params)
    params, norms, descend = case.params, dict.fromkeys(names, 0.0), textbook.Momentum(LR, MOMENTUM)
    for count, (batch, got) in enumerate(zip(case.batches, train(case, tx), strict=True)):
        if count % every == 0:
            chosen = textbook.choose(norms, 2, case.order)
        want = textbook.step(textbook_gradient(case.loss), params, batch, chosen, RHO, 0.8)
        params = descend(params, want.direction)
        norms = running_mean(norms, want.norms, decay)
        assert {n for n, s in zip(names, got.state.selected, strict=True) if s} == chosen
        assert_same(got.params, params)
        assert_same(got.state.norms, np.float32([norms[n] for n in names]))
