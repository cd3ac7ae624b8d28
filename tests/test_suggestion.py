"""`suggest_rho`: what radii do to the loss of a batch, against gradients by hand."""

import io

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import METHODS
from jax.flatten_util import ravel_pytree
from refusals import NAN, refused

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

RADII = [0.001, 0.01, 0.03, 0.1, 0.3, 1.0]


def by_hand(eps_of, rows=8):
    """Loss, and for each radius the perturbed loss and <grad L(w + eps), eps>."""
    params, batch = contract.parameters(), contract.batch(size=8)
    w, unravel = ravel_pytree(params)
    loss = jax.jit(lambda w, *batch: contract.loss(unravel(w), *batch))
    gradient = jax.jit(jax.grad(loss))
    g = gradient(w, *(x[:rows] for x in batch))
    kernels = ravel_pytree(jax.tree.map(lambda x: jnp.full(x.shape, x.ndim > 1), params))[0]
    rows = []
    for rho in RADII:
        eps = eps_of(rho, w, g, kernels)
        rows.append((loss(w + eps, *batch), jnp.dot(gradient(w + eps, *batch), eps)))
    return float(loss(w, *batch)), *np.asarray(rows).T


def unit(x):
    return x / jnp.linalg.norm(x)


def found(tx=None, **options):
    params, batch = contract.parameters(), contract.batch(size=8)
    return lsam.suggest_rho(contract.loss, params, *batch, tx=tx, radii=RADII, **options)


def asam(rho, w, g, kernels):
    T = np.abs(w) + 0.01
    T = np.where(np.concatenate([np.ones(x.size) * (n != "b") for n, x in named()]), T, 1)
    return rho * T**2 * g / np.linalg.norm(T * g)


def named():
    leaves = jax.tree_util.tree_leaves_with_path(contract.parameters())
    return [(path[-1].key, x) for path, x in leaves]


CASES = {
    "SAM": (None, {}, lambda rho, w, g, kernels: rho * unit(g), 8),
    "kernels": (
        lsam.layerwise_sam(2, 0.5, normalize=True),
        {},
        lambda rho, w, g, kernels: rho * unit(g * kernels),
        8,
    ),
    "not normalised": (
        lsam.layerwise_sam(2, 0.5),
        {},
        lambda rho, w, g, kernels: rho * g * kernels,
        8,
    ),
    "its own radius is not looked at": (
        lsam.sam(lsam.bounded(1e-9, lsam.per_layer({}, default=1e-9))),
        {},
        lambda rho, w, g, kernels: rho * unit(g),
        8,
    ),
    "ASAM": (lsam.asam(), {}, asam, 8),
    "a quarter": (None, {"ascent_batch": 0.25}, lambda rho, w, g, kernels: rho * unit(g), 2),
    "two samples": (None, {"ascent_batch": 2}, lambda rho, w, g, kernels: rho * unit(g), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_like_gradients_by_hand(name):
    tx, options, eps_of, rows = CASES[name]
    if options:
        options = {**options, "batch_argnums": (1, 2)}
    loss, losses, rises = by_hand(eps_of, rows)
    got = found(tx, **options)
    assert got.loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(got.losses, losses, rtol=1e-10)
    np.testing.assert_allclose(got.rises, rises, rtol=1e-9)
    np.testing.assert_allclose(got.sharpness, losses - loss, atol=1e-12)
    assert got.radii.tolist() == RADII


@pytest.mark.parametrize("target", [1e-6, 0.05, 0.1, 1.0, 1e6])
def test_the_rule(target):
    got = found(target=target)
    fits = [rho for rho, rise in zip(RADII, got.rises, strict=True) if rise <= target]
    assert got.rho == (fits[-1] if fits else RADII[0])
    assert {0: "smaller", len(RADII): "larger"}.get(len(fits), f"at most {target:g}") in got.why
    assert "0.1 nats" in got.why


def test_a_rise_that_falls_again_is_not_trusted():
    """Beyond a radius that is too large, and where the loss is no number."""
    w = jnp.asarray([0.0])
    loss = lambda w: jnp.where(w[0] < 3, 1.0, jnp.nan) * jnp.tanh(w[0]) + jnp.exp(-w[0])  # noqa: E731
    got = lsam.suggest_rho(
        lambda w: 2 * jnp.sin(w[0]) + 2, w, radii=[0.1, 1.0, 3.1, 4.0], target=0.5
    )
    assert got.rho == 0.1
    assert (got.rises[2:] < 0.5).all()
    got = lsam.suggest_rho(lambda w: loss(w + 1), w, radii=[0.1, 1.0, 3.1], target=5.0)
    assert np.isnan(got.losses[2])
    assert got.rho == 1.0


def test_layers_are_those_of_largest_norm():
    """Of the gradient there, or as a state says."""
    params, batch = contract.parameters(), contract.batch(size=8)
    names = lsam.layer_names(params)
    g = jax.jit(jax.grad(contract.loss))(params, *batch)
    norms = {n: np.linalg.norm(g[n[0]]["w"]) for n in names}
    tx = lsam.layerwise_sam(1, 0.1)
    assert found(tx).selected == (max(norms, key=norms.get),)
    for name in names:
        norms = jnp.asarray([float(n == name) for n in names], jnp.float32)
        assert found(tx, sam_state=tx.init(params)._replace(norms=norms)).selected == (name,)


def test_one_compilation_for_all_radii(compilations):
    params, batch = contract.parameters(), contract.batch(size=8)
    counts = []
    for radii in (RADII, np.geomspace(0.001, 1, 60)):
        compilations.count = 0
        lsam.suggest_rho(contract.loss, params, *batch, radii=radii)
        counts.append(compilations.count)
    assert 2 <= counts[1] <= counts[0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name):
    method = METHODS[name]
    tx, loss = method(), contract.LOSSES[method.loss]
    params, batch = contract.parameters(), contract.batch()
    _, _, state = jax.jit(lsam.value_and_grad(loss, tx))(params, tx.init(params), *batch)
    got = lsam.suggest_rho(loss, params, *batch, tx=tx, sam_state=state, radii=RADII)
    assert np.isfinite(got.losses).all()
    assert (got.losses[-1] != got.loss).all()


@pytest.mark.parametrize("name", ["sam", "asam", "gam", "functional_sam", "esam"])
def test_it_says_where_rise_would_end_if_that_is_so(name):
    """What a step of the method says of its perturbation, against what is measured here."""
    method = METHODS[name]
    params, batch, loss = contract.parameters(), contract.batch(), contract.LOSSES[method.loss]
    state = method(0.3).init(params)
    got = lsam.suggest_rho(
        loss, params, *batch, tx=method(0.3), sam_state=state, radii=[0.3, 50.0], target=1e3
    )
    assert not got.why.startswith("Even")
    step = jax.jit(lsam.value_and_grad(loss, method(0.3)))
    rise = float(step(params, state, *batch)[2].rise)
    same = got.rises[0] == pytest.approx(rise, rel=1e-5)
    assert same == (name in ("sam", "asam"))
    assert ("lsam.rise" in got.why) == same


def test_aux_keywords_and_things_that_are_no_arrays():
    params, (x, y) = contract.parameters(), contract.batch(size=8)

    def loss(p, x, how, *, y):
        return contract.loss(p, x, y) if how == "so" else jnp.zeros(()), {"how": how}

    got = lsam.suggest_rho(loss, params, x, "so", y=y, has_aux=True, radii=RADII)
    np.testing.assert_allclose(got.losses, found().losses)
    with refused(TypeError, "has_aux"):
        lsam.suggest_rho(loss, params, x, "so", y=y)


def test_a_loss_that_cannot_be_traced():
    w = jnp.asarray([3.0, 4.0])
    loss = lambda w: jnp.sum(w**2) / 2 if w[0] > 0 else jnp.zeros(())  # noqa: E731
    got = lsam.suggest_rho(loss, w, radii=[1.0, 2.0])
    np.testing.assert_allclose(got.rises, [6.0, 14.0])


def test_it_prints_as_a_table():
    got = found()
    lines = str(got).splitlines()
    assert lines[0].split() == ["radius", "loss", "sharpness", "rise"]
    assert len(lines) == len(RADII) + 2
    (marked,) = (line for line in lines if line.endswith("start here"))
    assert float(marked.split()[0]) == got.rho
    assert lines[-1] == got.why
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=200, file=io.StringIO())
    console.print(got)
    assert "start here" in console.file.getvalue()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"radii": []}, ValueError, ["radii", "[]"]),
        ({"radii": [0.1, 0.0]}, ValueError, ["radii", "above 0"]),
        ({"radii": [0.2, 0.1]}, ValueError, ["radii", "ascend"]),
        ({"radii": [0.1, NAN]}, ValueError, ["radii", "nan"]),
        ({"radii": "many"}, TypeError, ["radii", "'many'"]),
        ({"target": 0.0}, ValueError, ["target", "above 0"]),
        ({"target": "low"}, TypeError, ["target", "'low'"]),
        ({"tx": "sam"}, TypeError, ["tx", "str"]),
        ({"ascent_batch": 0}, ValueError, ["ascent_batch", "above 0"]),
        ({"ascent_batch": 1.5}, ValueError, ["ascent_batch=1.5", "at most 1"]),
        ({"ascent_batch": 0.3}, ValueError, ["ascent_batch=0.3", "2.4", "whole number"]),
        ({"ascent_batch": 9}, ValueError, ["ascent_batch=9", "8 samples"]),
        ({"ascent_batch": 0.5, "batch_argnums": 0}, ValueError, ["batch_argnums", "0"]),
        ({"ascent_batch": 0.5, "batch_argnums": 3}, ValueError, ["batch_argnums=3", "position"]),
        ({"tx": lsam.momentum_sam()}, ValueError, ["No radius moves", "sam_state"]),
        ({"tx": lsam.layerwise_sam(0, 0.1)}, ValueError, ["No radius moves", "no layer"]),
    ],
)
def test_bad_input(options, error, words):
    params, batch = contract.parameters(), contract.batch(size=8)
    with refused(error, *words):
        lsam.suggest_rho(contract.loss, params, *batch, **options)
