"""Zero gradients, and losses or gradients that are not finite, in either pass."""

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
    assert_trains_like_textbook,
    make_step,
    textbook_gradient,
)

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

NORMALIZE = [False, True, "layer"]


@pytest.mark.core
@pytest.mark.parametrize(
    ("normalize", "selection", "face"),
    [
        (False, "high", "value_fn"),
        (True, "high", "value_fn"),
        ("layer", "high", "value_fn"),
        ("layer", "all", "value_fn"),
        (True, "low", "grad_fn"),
        ("layer", "all", "grad_fn"),
    ],
)
def test_a_zero_gradient_perturbs_nothing(normalize, selection, face):
    """At the minimum of w^4: no NaN, no movement, norms and sharpness 0."""
    tx = lsam.layerwise_sam(1, RHO, 0.8, selection=selection, normalize=normalize)
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2, 2))}
    seen = []

    def value(params):
        jax.debug.callback(lambda *w: seen.extend(w), *jax.tree.leaves(params))
        return sum(jnp.sum(w**4) for w in jax.tree.leaves(params))

    function = value if face == "value_fn" else jax.grad(value)
    updates, state = jax.jit(lambda p, s: tx.update(p, s, p, **{face: function}))(
        params, tx.init(params)
    )
    jax.effects_barrier()
    assert_same(updates, params)
    assert not np.any(seen)
    assert seen
    assert not state.norms.any()
    assert state.sharpness == 0


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_one_zero_among_others(normalize):
    """A selected layer without gradient: the others are perturbed as ever ("low" chooses it)."""
    case = zoo.build("unused")
    tx = lsam.layerwise_sam(2, RHO, 0.8, selection="low", normalize=normalize)
    chosen = []

    def choose(norms, reported):
        chosen.append(reported)
        return textbook.choose(norms, 2, case.order, largest=False)

    assert_trains_like_textbook(case, tx, choose, 0.8, normalize)
    assert all("never" in names for names in chosen[1:])


def poison(kind):
    """A loss that is spoilt on demand: `batch["spoil"]` is 0 or 1, `batch["there"]` the head's
    weights at the clean point."""
    case = zoo.build("branches")

    def loss(params, batch):
        value, aux = case.loss(params, batch)
        head = params["join"]["w"]
        bad = batch["spoil"]
        if kind in ("nan", "inf"):
            value = value * jnp.where(bad, float(kind), 1.0)
        elif kind == "loss":
            value = value + jnp.where(bad, jnp.inf, 0.0)
        elif kind == "gradient":  # d sqrt(x) / dx at 0
            value = value + jnp.sqrt(jnp.where(bad, 0 * jnp.sum(head**2), 1.0))
        elif kind == "perturbed":
            value = value * jnp.where(bad & jnp.any(head != batch["there"]), jnp.nan, 1.0)
        elif kind == "perturbed gradient":
            moved = jnp.any(head != batch["there"])
            value = value + jnp.sqrt(jnp.where(bad & moved, 0 * jnp.sum(head**2), 1.0))
        return value, aux

    return case, loss


KINDS = {  # what is not finite: loss, ascent gradient, descent gradient
    "nan": (True, True),
    "inf": (True, True),
    "loss": (True, False),
    "gradient": (False, True),
    "perturbed": (False, True),
    "perturbed gradient": (False, True),
}


@pytest.mark.parametrize(
    ("kind", "alpha"),
    [
        pytest.param("nan", 0.8, marks=pytest.mark.core),
        ("inf", 1.0),
        ("loss", 0.8),
        ("gradient", 0.8),
        ("gradient", 1.0),
        ("perturbed", 0.8),
        pytest.param("perturbed gradient", 1.0, marks=pytest.mark.core),
    ],
)
def test_what_is_not_finite_is_returned_and_not_stored(kind, alpha):
    case, loss = poison(kind)
    tx = lsam.layerwise_sam(2, RHO, alpha)
    step, sgd = make_step(loss, tx), optax.sgd(LR, momentum=MOMENTUM)
    names = lsam.layer_names(case.params)
    params, state, momentum = case.params, tx.init(case.params), sgd.init(case.params)
    norms, descend = dict.fromkeys(names, 0.0), textbook.Momentum(LR, MOMENTUM)
    for i, batch in enumerate(case.batches):
        spoil = i in (1, 3)
        data = {**batch, "spoil": spoil, "there": params["join"]["w"]}
        got, after = step(params, state, momentum, data)
        chosen = textbook.choose(norms, 2, case.order)
        assert "join/w" in chosen  # else its weights do not move and nothing is spoilt
        want = textbook.step(textbook_gradient(loss), params, data, chosen, RHO, alpha)
        assert {n for n, s in zip(names, got.state.selected, strict=True) if s} == chosen
        assert got.state.count == i + 1
        if spoil:
            bad_loss, bad_gradient = KINDS[kind]
            assert bad_loss != np.isfinite(got.loss)
            bad = {n: not np.isfinite(g).all() for n, g in textbook.named(got.grads).items()}
            assert bad == {n: not np.isfinite(g).all() for n, g in want.direction.items()}
            assert any(bad.values()) == bad_gradient
            assert_same(got.state.norms, state.norms)
            state = got.state  # the update is not applied, the SAM state goes on
            continue
        params, norms = descend(params, want.direction), want.norms
        assert_same(got.grads, textbook.unnamed(want.direction, got.grads))
        assert_same(got.params, params)
        assert_same(got.state.norms, np.float32([norms[n] for n in names]))
        params, state, momentum = got.params, got.state, after


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_norms_stay_finite_when_overflowing(decay):
    """A gradient that is finite but whose square is not must not enter as inf."""
    tx = lsam.layerwise_sam(1, 0.0, norm_decay=decay)
    params = {"w": jnp.full((2, 2), 1.0, jnp.float32)}
    state = tx.init(params)._replace(norms=jnp.ones(1, jnp.float32))
    big = jnp.asarray(1e30, jnp.float32)
    _, grads, state = lsam.value_and_grad(lambda p: jnp.sum(p["w"] * big), tx)(params, state)
    assert np.isfinite(grads["w"]).all()
    assert np.isfinite(state.norms).all()


NO_CLEAN_PASS = {
    "stale": lambda rho: lsam.with_parts(lsam.sam(rho), ascent=lsam.stale()),
    "fresh": lambda rho: lsam.with_parts(lsam.sam(rho), ascent=lsam.stale(fresh="b")),
    "momentum": lsam.momentum_sam,
}


@pytest.mark.core
@pytest.mark.parametrize("name", NO_CLEAN_PASS)
def test_an_infinite_loss_of_finite_gradient_without_a_clean_pass(name):
    """The radius halves, and the mean of the losses by which it sets itself stays finite."""
    tx = NO_CLEAN_PASS[name](lsam.rise(share=0.4))
    params = {"a": jnp.asarray(3.0), "b": jnp.asarray(4.0)}
    loss = lambda p, bad: jnp.sin(p["a"]) * p["b"] ** 2 + jnp.where(bad, jnp.inf, 0.0)  # noqa: E731
    step, state = jax.jit(lsam.value_and_grad(loss, tx)), tx.init(params)
    for _ in range(4):
        _, _, state = step(params, state, False)
    _, direction, after = step(params, state, True)
    assert all(np.isfinite(x) for x in direction.values())
    halved = state.memory.radius._replace(rho=state.memory.radius.rho / 2)
    assert_same(after.memory, state.memory._replace(radius=halved))
    assert_same(after.norms, state.norms)


# optax.apply_if_finite looks at what comes in. Around the whole chain that is the clean gradient,
# so it must stand behind SAM to see a step that only the perturbed pass has spoilt.
ARRANGEMENTS = {
    "behind": lambda sam, base: optax.chain(sam, optax.apply_if_finite(base, 3)),
    "around": lambda sam, base: optax.apply_if_finite(optax.chain(sam, base), 3),
}


@pytest.mark.parametrize(
    ("arrangement", "kind", "face"),
    [
        ("behind", "nan", "value_fn"),
        ("behind", "gradient", "grad_fn"),
        ("behind", "perturbed", "value_fn"),
        pytest.param("behind", "perturbed gradient", "value_fn", marks=pytest.mark.core),
        ("behind", "perturbed gradient", "grad_fn"),
        ("around", "inf", "value_fn"),
        pytest.param("around", "gradient", "grad_fn", marks=pytest.mark.core),
    ],
)
def test_apply_if_finite_skips_the_step(arrangement, kind, face):
    """A spoilt step leaves parameters, momentum and norms; the steps after it are as without it."""
    case, loss = poison(kind)
    optimizer = ARRANGEMENTS[arrangement](
        lsam.layerwise_sam(2, RHO, 0.8), optax.sgd(LR, momentum=MOMENTUM)
    )

    @jax.jit
    def step(params, state, batch):
        def value_fn(params):
            return loss(params, batch)[0]

        extra = {face: value_fn if face == "value_fn" else jax.grad(value_fn)}
        updates, state = optimizer.update(jax.grad(value_fn)(params), state, params, **extra)
        return optax.apply_updates(params, updates), state

    def run(spoilt):
        params, state = case.params, optimizer.init(case.params)
        for i, batch in enumerate(case.batches):
            data = {**batch, "there": params["join"]["w"]}
            if spoilt and i == 2:
                before = params
                params, state = step(params, state, {**data, "spoil": True})
                assert_same(params, before)
            params, state = step(params, state, {**data, "spoil": False})
        return params, state

    (params, state), (want, want_state) = run(True), run(False)
    assert_same(params, want)
    assert find(state, optax.ApplyIfFiniteState).total_notfinite == 1
    assert_same(find(state, lsam.SamState).norms, find(want_state, lsam.SamState).norms)


def find(state, kind):
    """The member of a kind in a nested Optax state."""
    if isinstance(state, kind):
        return state
    inner = state.inner_state if isinstance(state, optax.ApplyIfFiniteState) else state
    members = [find(s, kind) for s in inner] if isinstance(inner, tuple) else []
    return next((s for s in members if s is not None), None)
