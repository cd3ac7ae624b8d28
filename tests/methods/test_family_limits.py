"""Methods at the ends of their options are other methods: SAM, or the plain gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from contract import METHODS
from textbook import named, norm, relative_error
from training import RHO, assert_same, textbook_gradient

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

INF = float("inf")

LAYERWISE = ("layerwise_sam", "layerwise_look_sam")
ARE_SAM = {
    "look_sam, every step": lambda: lsam.look_sam(RHO, every=1),
    "gsam, alpha 0": lambda: lsam.gsam(RHO, 0.0),
    "ae_sam, threshold -inf": lambda: lsam.ae_sam(RHO, -INF),
    "ae_sam, threshold -inf, no memory": lambda: lsam.ae_sam(RHO, -INF, 0.0),
    "sl_sam, all active": lambda: lsam.sl_sam(RHO, 1.0),
    "generalized_sam, alpha 1": lambda: lsam.generalized_sam(RHO, 1.0),
    "f_sam, nothing taken away": lambda: lsam.f_sam(RHO, 0.0),
    "fisher_sam, the Euclidean metric": lambda: lsam.fisher_sam(RHO, 0.0),
    "vasso, the newest gradient": lambda: lsam.vasso(RHO, 1.0),
    "wsam, half": lambda: lsam.wsam(RHO, 0.5),
    "zsharp, all": lambda: lsam.zsharp(RHO, 1.0),
    "sam_on, all": lambda: lsam.sam_on(RHO, layers="array"),
    "per_layer, equal": lambda: lsam.sam(lsam.per_layer({}, default=RHO)),
    "layer-wise asam, nothing scaled": lambda: lsam.asam(RHO, scaled=lambda path: False),
}
ARE_PLAIN = {
    "ae_sam, threshold inf": lambda: lsam.ae_sam(RHO, INF),
    "gam, alpha 0": lambda: lsam.gam(RHO, 0.0),
    "wsam, no sharpness": lambda: lsam.wsam(RHO, 0.0),
    "stale, no radius": lambda: lsam.with_parts(lsam.sam(0.0), ascent=lsam.stale()),
    "generalized_sam, alpha 0": lambda: lsam.generalized_sam(RHO, 0.0),
    "look_sam, no radius": lambda: lsam.look_sam(0.0, 2),
    **{
        f"{name}, no radius": lambda method=method: method(0.0)
        for name, method in METHODS.items()
        if method.loss == "plain" and name not in (*LAYERWISE, "sam_on", "look_sam", "sl_sam")
    },
}


def directions(tx, case, batches):
    """Of a few steps at the same weights."""
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))
    state = tx.init(case.params)
    for batch in batches:
        _, direction, state = step(case.params, state, batch)
        yield direction, state


@functools.cache
def of_sam():
    case = zoo.build("branches")
    return list(directions(lsam.sam(RHO), case, case.batches[:3]))


@pytest.mark.parametrize("name", ARE_SAM)
def test_is_sam(name):
    case = zoo.build("branches")
    found = directions(ARE_SAM[name](), case, case.batches[:3])
    for (got, state), (want, _) in zip(found, of_sam(), strict=True):
        assert_same(got, want)
        assert state.selected.all()


@pytest.mark.parametrize("name", ARE_PLAIN)
def test_is_the_plain_gradient(name):
    case = zoo.build("branches")
    batches = case.batches[:3]
    for (got, _), batch in zip(directions(ARE_PLAIN[name](), case, batches), batches):
        assert_same(got, textbook_gradient(case.loss)(case.params, batch)[1])


def test_asam_of_unit_weights_is_sam():
    case = zoo.build("branches")
    params = jax.tree.map(jnp.sign, case.params)
    case = case._replace(params=jax.tree.map(lambda w: jnp.where(w == 0, 1.0, w), params))
    pairs = zip(
        directions(lsam.asam(RHO, 0.0, scaled="all"), case, case.batches[:1]),
        directions(lsam.sam(RHO), case, case.batches[:1]),
    )
    for (got, _), (want, _) in pairs:
        assert_same(got, want)


def test_stable_sam_keeps_the_norm():
    case = zoo.build("branches")
    for (got, _), batch in zip(directions(lsam.stable_sam(RHO), case, case.batches), case.batches):
        plain = textbook_gradient(case.loss)(case.params, batch)[1]
        assert norm(*named(got).values()) == pytest.approx(norm(*named(plain).values()), rel=1e-12)
        assert relative_error(named(got)["join/w"], named(plain)["join/w"]) > 1e-3


@pytest.mark.parametrize("threshold", [0.5, lambda count: 0.5 + 0 * count])
def test_ae_sam_keeps_mean_and_variance(threshold):
    """Of given gradients: those of w'c are c. A gradient that is not finite is forgotten."""
    tx = lsam.ae_sam(RHO, threshold, 0.8)
    w = {"w": jnp.zeros((1, 1))}
    state = tx.init(w)
    mean = variance = 0.0
    update = jax.jit(
        lambda c, state: tx.update({"w": c}, state, w, grad_fn=lambda w: {"w": c + w["w"]})
    )
    for c in (1.0, 3.0, 0.5, float("nan"), 4.0, 2.0):
        direction, state = update(jnp.full((1, 1), c), state)
        if not np.isnan(c):
            mean = 0.8 * mean + 0.2 * c**2
            variance = 0.8 * variance + 0.2 * (c**2 - mean) ** 2
            perturbs = c**2 >= mean + 0.5 * np.sqrt(variance)
            assert float(direction["w"][0, 0]) == pytest.approx(c + RHO * perturbs)
            assert bool(state.selected[0]) == perturbs
        assert float(state.memory.cadence.mean) == pytest.approx(mean, rel=1e-6)
        assert float(state.memory.cadence.variance) == pytest.approx(variance, rel=1e-6)


def test_look_sam_reuses_without_calling():
    """A step between two perturbed ones does not call the gradient function, nor count."""
    tx = lsam.look_sam(RHO, every=3, k=1, selection="high", layers="kernel")
    params = {"a": jnp.ones((2, 2)), "b": jnp.full((2, 2), 2.0)}
    calls = []

    def grad_fn(w):
        jax.debug.callback(lambda: calls.append(1))
        return jax.tree.map(lambda x: 2 * x, w)

    update = jax.jit(lambda s: tx.update(params, s, params, grad_fn=grad_fn))
    state, seen = tx.init(params), []
    for _ in range(7):
        _, state = update(state)
        jax.effects_barrier()
        seen.append((len(calls), state.selected.any().item()))
    assert seen == [(1, True), (1, False), (1, False), (2, True), (2, False), (2, False), (3, True)]
    assert state.perturbations.sum() == 3


NORMS = {
    "BatchNorm_0/scale": True,
    "block1/bn2/bias": True,
    "encoder/ln_f/g": True,
    "norm1/weight": True,
    "batch_norm/~/scale": True,
    "layers/0/layer_norm/scale": True,
    "GroupNorm_3/bias": True,
    "batch_normalization/gamma": True,
    "Conv_0/kernel": False,
    "normal_dense/kernel": False,
    "Dense_0/bias": False,
    "lnear/w": False,
}


def test_sam_on_finds_normalisation_layers():
    params = {path: jnp.ones(2) for path in NORMS}
    assert set(lsam.layer_names(params, "norm")) == {p for p, found in NORMS.items() if found}
    with pytest.raises(ValueError, match="norm"):
        lsam.sam_on().init({"Dense_0": {"kernel": jnp.ones((2, 2))}})


def test_a_state_of_another_method_is_refused():
    params = {"w": jnp.ones((2, 2))}
    state = lsam.sam(RHO).init(params)
    with pytest.raises(ValueError, match="another method"):
        lsam.look_sam(RHO).update(params, state, params, grad_fn=lambda w: w)
