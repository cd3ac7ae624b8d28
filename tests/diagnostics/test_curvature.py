"""Hessian-vector products, eigenvalues and trace against a quadratic's Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam
from lsam_jax.diagnostics import (
    eigenvalues,
    hessian_eigenvalues,
    hessian_trace,
    hessian_vector_product,
)

LAYERS = ["in", "out", None]


def measure(function, quadratic, layer, **options):
    return function(
        quadratic.loss_fn,
        quadratic.params,
        quadratic.scale,
        batches=quadratic.batches,
        key=jax.random.key(3),
        layer=layer,
        **options,
    )


def part(quadratic, layer):
    rows = quadratic.of[layer]
    return quadratic.hessian[np.ix_(rows, rows)]


def test_products_are_the_hessians(quadratic):
    vector = jax.tree.map(lambda x: jnp.cos(7 * x), quadratic.params)
    found = hessian_vector_product(
        quadratic.loss_fn, quadratic.params, vector, quadratic.scale, batches=quadratic.batches
    )
    flat = [np.concatenate([np.ravel(tree[n]) for n in tree]) for tree in (vector, found)]
    np.testing.assert_allclose(flat[1], quadratic.hessian @ flat[0], rtol=1e-10)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("k", [1, 3])
def test_eigenvalues_are_the_hessians_largest(quadratic, layer, k):
    found = measure(hessian_eigenvalues, quadratic, layer, k=k, tolerance=0)
    want = np.linalg.eigvalsh(part(quadratic, layer))[::-1][:k]
    np.testing.assert_allclose(found, want, rtol=1e-9)


def test_eigenvalues_of_a_small_layer_are_exact_up_to_all_of_them(quadratic):
    found = measure(hessian_eigenvalues, quadratic, "out", k=4)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(part(quadratic, "out"))[::-1], rtol=1e-9)


def test_large_negative_curvature_does_not_hide_the_largest_eigenvalue():
    curvature = jnp.array([-100.0] + [1.0] * 28 + [2.0]).reshape(5, 6)
    found = hessian_eigenvalues(
        lambda p: 0.5 * jnp.sum(curvature * p["w"] ** 2),
        {"w": jnp.ones((5, 6))},
        key=jax.random.key(0),
    )
    np.testing.assert_allclose(found, [2.0], rtol=1e-3)


def test_a_tolerance_that_is_not_reached_is_said(monkeypatch):
    monkeypatch.setattr(eigenvalues, "ROUNDS", 2)
    curvature = jnp.linspace(0, 1, 1000)  # close together, so Lanczos is slow
    with pytest.raises(ValueError, match=r"tolerance=1e-06 was not reached for k=1 within 2"):
        hessian_eigenvalues(
            lambda w: 0.5 * jnp.sum(curvature * w**2),
            jnp.ones(1000),
            key=jax.random.key(0),
            tolerance=1e-6,
        )


def test_a_slice_of_stacked_layers_is_a_layer():
    curvature = jnp.array([1.0, 2.0, 3.0])[:, None, None]
    params = {"blocks": {"w": jnp.ones((3, 2, 5))}, "head": jnp.ones((2, 2))}
    found = {
        layer: hessian_trace(
            lambda p: 0.5 * jnp.sum(curvature * p["blocks"]["w"] ** 2) + jnp.sum(p["head"]),
            params,
            key=jax.random.key(0),
            layer=layer,
            layers=lsam.stacked("blocks"),
        ).mean
        for layer in ("blocks/0/w", "blocks/2/w", "head")
    }
    assert found == {"blocks/0/w": 10, "blocks/2/w": 30, "head": 0}


def test_a_loss_without_curvature():
    params = {"w": jnp.ones((6, 6))}
    for function, options in ((hessian_eigenvalues, {"k": 2}), (hessian_trace, {})):
        found = function(lambda p: jnp.sum(p["w"]), params, key=jax.random.key(0), **options)
        assert not np.any(found[:2])


@pytest.mark.parametrize("layer", LAYERS)
def test_trace_is_the_hessians_within_its_error(quadratic, layer):
    found = measure(hessian_trace, quadratic, layer, probes=200)
    part_of_layer = part(quadratic, layer)
    assert abs(found.mean - np.trace(part_of_layer)) < 3 * found.standard_error
    # With random signs the variance of one probe is 2 sum_{i != j} H_ij^2.
    outside = part_of_layer - np.diag(np.diag(part_of_layer))
    error = np.sqrt(2 * np.sum(outside**2) / 200)
    np.testing.assert_allclose(found.standard_error, error, rtol=0.2)
    np.testing.assert_allclose(found.probes.mean(), found.mean)
    assert found.probes.shape == (200,)


def test_trace_of_a_diagonal_hessian_has_no_error():
    found = hessian_trace(
        lambda p: jnp.sum(p["w"] ** 2 * jnp.array([1.0, 3.0])),
        {"w": jnp.ones(2)},
        key=jax.random.key(0),
        probes=2,
    )
    assert found[:2] == (8.0, 0.0)


def test_vectors_and_networks_share_one_compilation_for_each_layer():
    traces = []

    def loss_fn(params):
        traces.append(1)
        return jnp.sum(jnp.tanh(params["a"]) ** 2) * jnp.sum(params["b"])

    for seed in range(2):
        params = {n: jax.random.normal(jax.random.key(seed), (5, 5)) for n in ("a", "b")}
        for layer in ("a", None):
            hessian_eigenvalues(loss_fn, params, key=jax.random.key(seed), layer=layer)
            hessian_trace(loss_fn, params, key=jax.random.key(seed), layer=layer)
    assert len(traces) == 2


def test_bfloat16_parameters():
    found = hessian_trace(
        lambda p: jnp.sum(p["w"] ** 2, dtype=jnp.float32),
        {"w": jnp.ones(4, jnp.bfloat16)},
        key=jax.random.key(0),
    )
    assert found.mean == 8


@pytest.mark.parametrize(
    ("function", "change", "error", "message"),
    [
        (hessian_eigenvalues, {"k": 0}, ValueError, r"k must be .* from 1 to 4; got k=0"),
        (hessian_eigenvalues, {"k": 5}, ValueError, r"from 1 to 4; got k=5"),
        (hessian_eigenvalues, {"k": 1.0}, ValueError, r"k=1.0"),
        (hessian_eigenvalues, {"tolerance": -1}, ValueError, r"tolerance=-1"),
        (hessian_eigenvalues, {"layer": "b"}, ValueError, r"layer='b' does not exist"),
        (hessian_trace, {"probes": 1}, ValueError, r"probes=1"),
        (hessian_trace, {"layer": "b"}, ValueError, r"layer='b' does not exist"),
        (hessian_trace, {"batches": []}, ValueError, r"batches is empty"),
        (hessian_trace, {"loss_fn": lambda p: p["a"]}, TypeError, r"must return a real scalar"),
        (
            hessian_trace,
            {"loss_fn": lambda p: jnp.sum(jnp.sqrt(p["a"] - 1))},
            FloatingPointError,
            r"not finite",
        ),
    ],
)
def test_refuses(function, change, error, message):
    arguments = {"loss_fn": lambda p: jnp.sum(p["a"] ** 2), **change}
    with pytest.raises(error, match=message):
        function(
            arguments.pop("loss_fn"), {"a": jnp.ones((2, 2))}, key=jax.random.key(0), **arguments
        )


def test_a_vector_unlike_the_parameters_is_refused():
    with pytest.raises(ValueError, match=r"vector must be a tree like params"):
        hessian_vector_product(lambda w: jnp.sum(w**2), jnp.ones(2), jnp.ones(3))


PLACES = np.arange(100)
NOT_ABOVE_0 = {
    "few below": (-1.0 * (PLACES < 10), 1),
    "many below": (np.where(PLACES < 60, 0, -3.0), 3),
    "all apart": (-np.maximum(20.0 - PLACES, 0), 1),
    "one above": (np.where(PLACES < 1, 1e-3, -1.0), 2),
    "all below": (-1.0 - PLACES, 2),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", NOT_ABOVE_0)
def test_largest_eigenvalues_that_are_not_above_0(name, turned):
    """A step of the power method has nothing of the null space; turned, 0 is 1e-7 in float32."""
    curvature, k = NOT_ABOVE_0[name]
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0] if turned else None
    H = np.diag(curvature) if basis is None else basis * curvature @ basis.T
    H = jnp.asarray((H + H.T) / 2, jnp.float32)
    found = hessian_eigenvalues(lambda w: w @ H @ w / 2, jnp.ones(100), key=jax.random.key(0), k=k)
    error = 1e-3 * abs(curvature).max()
    np.testing.assert_allclose(found, np.sort(curvature)[::-1][:k], rtol=0, atol=error)
