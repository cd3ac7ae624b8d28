"""Special cases with a known answer: SAM, the plain gradient, a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
import zoo
from training import RHO, assert_same, assert_trains_like_textbook, textbook_gradient, train

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "k"),
    [("branches", "L"), ("branches", "all"), ("remat_blocks", "L"), ("convolutions", "all")],
)
def test_all_layers_and_alpha_1_are_sam(model, k):
    """SAM (Foret et al. 2021, eq. 2, 3) over the kernels, in three lines."""
    case = zoo.build(model)
    kernels = jax.tree.map(lambda w: float(w.ndim > 1), case.params)

    def sam(params, batch):
        gradient = jax.grad(case.loss, has_aux=True)
        g = jax.tree.map(jnp.multiply, kernels, gradient(params, batch)[0])
        norm = jnp.sqrt(sum(jnp.sum(g_i**2) for g_i in jax.tree.leaves(g)))
        eps = jax.tree.map(lambda g_i: RHO * g_i / norm, g)
        return gradient(jax.tree.map(jnp.add, params, eps), batch)[0]

    k, selection = (len(case.order), "high") if k == "L" else (None, "all")
    tx = lsam.layerwise_sam(k, RHO, alpha=1.0, selection=selection, normalize=True)
    params = case.params
    for batch, got in zip(case.batches, train(case, tx), strict=True):
        assert_same(got.grads, jax.jit(sam)(params, batch))
        assert got.state.selected.all()
        params = got.params


def test_sam_perturbs_every_array():
    case = zoo.build("branches")

    def sam(params, batch):
        gradient = jax.grad(case.loss, has_aux=True)
        g = gradient(params, batch)[0]
        norm = jnp.sqrt(sum(jnp.sum(g_i**2) for g_i in jax.tree.leaves(g)))
        return gradient(jax.tree.map(lambda w, g_i: w + RHO * g_i / norm, params, g), batch)[0]

    (got, *_) = train(case, lsam.sam(RHO))
    assert_same(got.grads, jax.jit(sam)(case.params, case.batches[0]))


@pytest.mark.parametrize("normalize", [False, True])
def test_generalized_sam_mixes(normalize):
    case = zoo.build("branches")
    every = {path: path for path in textbook.named(case.params)}
    assert_trains_like_textbook(
        case,
        lsam.generalized_sam(RHO, 0.7, normalize=normalize),
        lambda norms, reported: set(every),
        alpha=0.7,
        normalize=normalize,
        layers=lambda path: path,
        layer_of=every,
    )


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("branches", "k=0"),
        ("branches", "none"),
        ("branches", "rho=0"),
        ("remat_blocks", "none"),
        ("convolutions", "rho=0"),
    ],
)
def test_no_layer_or_no_radius_is_the_plain_gradient(model, how):
    case = zoo.build(model)
    tx = {
        "k=0": lsam.layerwise_sam(0, RHO, 0.8),
        "none": lsam.layerwise_sam(None, RHO, 0.8, selection="none"),
        "rho=0": lsam.layerwise_sam(2, 0.0, 0.8),
    }[how]
    params = case.params
    for batch, got in zip(case.batches, train(case, tx), strict=True):
        (loss, aux), grads = textbook_gradient(case.loss)(params, batch)
        assert_same((got.loss, got.aux, got.grads), (loss, aux, grads))
        assert got.state.sharpness == pytest.approx(0, abs=1e-6)
        assert got.state.selected.sum() == (2 if how == "rho=0" else 0)
        params = got.params


@pytest.mark.core
@pytest.mark.parametrize("normalize", [False, True, "layer"])
@pytest.mark.parametrize("chosen", [("a",), ("b",), ("a", "b")])
def test_closed_form_on_a_quadratic(normalize, chosen):
    """Of the sum over blocks of 1/2 w'Aw, the SAM gradient is A (w + r Aw), r = rho over a norm."""
    rng = np.random.default_rng(0)
    A = {name: rng.normal(size=(4, 4)) for name in "ab"}
    A = {name: a @ a.T for name, a in A.items()}
    w = {name: rng.normal(size=(4, 1)) for name in "ab"}

    def loss(w):
        return sum(0.5 * jnp.sum(w[n] * (A[n] @ w[n])) for n in w)

    tx = lsam.layerwise_sam(None, RHO, 0.8, selection=list(chosen), normalize=normalize)
    value, grads, state = jax.jit(lsam.value_and_grad(loss, tx))(w, tx.init(w))

    g = {n: A[n] @ w[n] for n in w}
    total = np.sqrt(sum(np.sum(g[n] ** 2) for n in chosen))
    norm = {n: {False: 1, True: total, "layer": np.linalg.norm(g[n])}[normalize] for n in w}
    there = {n: w[n] + (n in chosen) * RHO * g[n] / norm[n] for n in w}
    h = {n: A[n] @ there[n] for n in w}
    mixed = {n: 0.2 * g[n] + 0.8 * h[n] if n in chosen else h[n] for n in w}
    assert_same(grads, mixed)
    assert_same(value, sum(0.5 * np.sum(w[n] * g[n]) for n in w))
    assert_same(state.norms, np.float32([np.linalg.norm(h[n]) for n in "ab"]))
    rise = sum(0.5 * np.sum(there[n] * h[n] - w[n] * g[n]) for n in w)
    assert state.sharpness == pytest.approx(rise, rel=1e-5)


def test_a_loss_that_does_not_depend_on_the_parameters():
    params = {"w": jnp.ones((2, 2))}
    tx = lsam.layerwise_sam(1, RHO, 0.8, normalize=True)
    step = jax.jit(lsam.value_and_grad(lambda p, x: (x, {"twice": 2 * x}), tx, has_aux=True))
    (value, aux), grads, state = step(params, tx.init(params), 3.0)
    assert (value, aux["twice"]) == (3.0, 6.0)
    assert not grads["w"].any()
    assert not state.norms.any()


@pytest.mark.parametrize(
    "tx",
    [
        lsam.look_sam(RHO, k=0, selection="high"),
        lsam.look_sam(RHO, selection="none"),
        lsam.layerwise_sam(None, RHO, selection=lsam.price(1.3, "none")),
    ],
)
def test_where_nothing_is_selected_the_gradient_is_the_plain_one(tx):
    w = {"a": jnp.full((2, 2), 3.0)}
    step, state = lsam.value_and_grad(lambda p: jnp.sum(p["a"] ** 2) / 2, tx), tx.init(w)
    for _ in range(2):
        loss, direction, state = step(w, state)
        np.testing.assert_array_equal(direction["a"], w["a"])
        assert loss == 18 and not state.selected.any()
