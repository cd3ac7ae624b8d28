"""A layer's loss landscape against quadratics, whose Hessian is known."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsam_jax.diagnostics import landscape
from lsam_jax.diagnostics.landscape import layer_landscape


@pytest.fixture
def quadratic(x64):
    """Loss, parameters and, as NumPy has them, Hessian, slope and centre of 1/2 w'Hw + b'w."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(10, 10))
    hessian, slope = root @ root.T, rng.normal(size=10)
    params = {
        "in": jnp.asarray(rng.normal(size=(2, 3))),
        "out": jnp.asarray(rng.normal(size=(4, 1))),
    }

    def loss_fn(params, slope):
        w = jnp.concatenate([params["in"].ravel(), params["out"].ravel()])
        return 0.5 * w @ hessian @ w + slope @ w

    return loss_fn, params, hessian, slope


def flat(tree):
    return np.concatenate([np.asarray(tree["in"]).ravel(), np.asarray(tree["out"]).ravel()])


@pytest.mark.parametrize("layer", ["in", "out"])
def test_equals_the_quadratic_at_every_point(quadratic, layer):
    loss_fn, params, hessian, slope = quadratic
    found = layer_landscape(
        loss_fn, params, slope, layer=layer, key=jax.random.key(1), radius=2.0, points=5
    )
    np.testing.assert_array_equal(found.steps, [-2, -1, 0, 1, 2])
    u, v, centre = flat(found.first), flat(found.second), flat(params)
    for i, a in enumerate(found.steps):
        for j, b in enumerate(found.steps):
            w = centre + a * u + b * v
            np.testing.assert_allclose(
                found.loss[i, j], 0.5 * w @ hessian @ w + slope @ w, rtol=1e-12
            )


@pytest.mark.parametrize("layer", ["in", "out"])
def test_directions_are_orthonormal_inside_the_layer_and_zero_outside(quadratic, layer):
    loss_fn, params, _, slope = quadratic
    found = layer_landscape(loss_fn, params, slope, layer=layer, key=jax.random.key(2), points=2)
    both = np.stack([flat(found.first), flat(found.second)])
    np.testing.assert_allclose(both @ both.T, np.eye(2), atol=1e-14)
    outside = "out" if layer == "in" else "in"
    assert not np.any(found.first[outside]) and not np.any(found.second[outside])
    assert np.all(np.asarray(found.first[layer]) != 0)


def test_curvature_along_the_directions_is_the_hessians(quadratic):
    loss_fn, params, hessian, slope = quadratic
    found = layer_landscape(loss_fn, params, slope, layer="in", key=jax.random.key(3), points=3)
    loss, u, v = np.asarray(found.loss), flat(found.first), flat(found.second)
    np.testing.assert_allclose(loss[2, 1] - 2 * loss[1, 1] + loss[0, 1], u @ hessian @ u)
    np.testing.assert_allclose(loss[1, 2] - 2 * loss[1, 1] + loss[1, 0], v @ hessian @ v)


def test_layers_keys_and_networks_share_one_compilation():
    traces, counts = [], []

    def loss_fn(params, x):
        traces.append(1)
        return jnp.sum((x @ params["a"] @ params["b"]) ** 2)

    x = jnp.ones((2, 3))
    for seed, layer in enumerate(["a", "b", "a"]):
        shapes = {"a": (3, 3), "b": (3, 3)}
        params = {n: jax.random.normal(jax.random.key(seed), s) for n, s in shapes.items()}
        layer_landscape(loss_fn, params, x, layer=layer, key=jax.random.key(seed), points=3)
        counts.append(len(traces))
    assert counts == counts[:1] * 3


def test_a_layer_of_several_arrays_moves_as_one():
    params = {"m": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "rest": {"w": jnp.ones((2, 2))}}
    found = layer_landscape(
        lambda p: jnp.sum(p["m"]["w"]) + jnp.sum(p["m"]["b"]),
        params,
        layer="m",
        key=jax.random.key(0),
        points=3,
        layers="module",
    )
    slope = sum(jnp.sum(x) for x in jax.tree.leaves(found.first["m"]))
    np.testing.assert_allclose(found.loss[2, 1] - found.loss[1, 1], slope, rtol=1e-5)
    norm = sum(jnp.sum(x**2) for x in jax.tree.leaves(found.first))
    np.testing.assert_allclose(norm, 1, rtol=1e-6)


def test_parameters_keep_their_type():
    seen = []

    def loss_fn(params):
        seen.append(params["w"].dtype)
        return jnp.sum(params["w"]).astype(jnp.float32)

    layer_landscape(
        loss_fn, {"w": jnp.ones((2, 2), jnp.bfloat16)}, layer="w", key=jax.random.key(0), points=2
    )
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "c"}, ValueError, r"layer='c' does not exist. The layers are: a, b"),
        ({"layer": "b"}, ValueError, r"layer='b' has 1 parameter"),
        ({"radius": 0.0}, ValueError, r"radius=0.0"),
        ({"radius": np.inf}, ValueError, r"radius=inf"),
        ({"points": 1}, ValueError, r"points=1"),
        ({"loss_fn": lambda p: p["a"]}, TypeError, r"loss_fn must return a real scalar"),
        ({"loss_fn": lambda p: (p["a"].sum(), 0)}, TypeError, r"loss_fn must return a real scalar"),
    ],
)
def test_refuses(change, error, message):
    arguments = {"loss_fn": lambda p: jnp.sum(p["a"]), "layer": "a", **change}
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((1, 1))}
    with pytest.raises(error, match=message):
        layer_landscape(arguments.pop("loss_fn"), params, key=jax.random.key(0), **arguments)


def test_examples():
    assert doctest.testmod(landscape) == (0, 5)
