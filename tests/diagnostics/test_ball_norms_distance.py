"""The SAM ball, layers' gradient norms and distances against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lsam_jax as lsam
from lsam_jax.diagnostics import (
    NormRecorder,
    distance_between,
    gradient_norms,
    layer_norms,
    sam_ball,
)


@pytest.mark.parametrize("layer", ["in", "out", None])
def test_the_rise_is_the_quadratics(quadratic, layer):
    found = sam_ball(
        quadratic.loss_fn,
        quadratic.params,
        quadratic.scale,
        batches=quadratic.batches,
        rho=0.3,
        layer=layer,
    )
    gradient = quadratic.hessian @ quadratic.centre + quadratic.slope
    inside = np.zeros_like(gradient)
    inside[quadratic.of[layer]] = gradient[quadratic.of[layer]]
    norm = np.linalg.norm(inside)
    rise = 0.3 * norm + 0.045 * inside @ quadratic.hessian @ inside / norm**2
    np.testing.assert_allclose(found.clean, quadratic.at(quadratic.centre), rtol=1e-12)
    np.testing.assert_allclose(found.rise, rise, rtol=1e-9)
    np.testing.assert_allclose(found.loss, found.clean + rise, rtol=1e-12)


def test_without_a_gradient_nothing_rises():
    assert sam_ball(lambda w: jnp.sum(w**2), jnp.zeros(3), rho=1.0) == (0, 0, 0)


@pytest.mark.parametrize("rho", [0, -1.0, np.inf, np.nan])
def test_a_radius_that_is_none_is_refused(rho):
    with pytest.raises(ValueError, match=rf"rho={rho}"):
        sam_ball(lambda w: jnp.sum(w**2), jnp.ones(3), rho=rho)


def test_norms_are_those_of_the_mean_gradient(quadratic):
    found = gradient_norms(
        quadratic.loss_fn, quadratic.params, quadratic.scale, batches=quadratic.batches
    )
    gradient = quadratic.hessian @ quadratic.centre + quadratic.slope
    assert list(found) == ["in", "out"]
    for name, norm in found.items():
        np.testing.assert_allclose(norm, np.linalg.norm(gradient[quadratic.of[name]]), rtol=1e-6)


def test_the_recorder_holds_what_an_optimizer_saw():
    params = {"a": jnp.eye(2), "b": 3 * jnp.eye(2)}
    x = jnp.array([[1.0, 2.0]])

    def loss_fn(params, x):
        return jnp.sum((x @ params["a"] @ params["b"]) ** 2)

    tx = lsam.layerwise_sam(k=0, rho=0.1)
    step = jax.jit(lsam.value_and_grad(loss_fn, tx))
    state = tx.init(params)
    seen, gradients = (NormRecorder(lsam.layer_names(params)) for _ in range(2))
    for number in (10, 20, 30):
        _, grads, state = step(params, state, x)
        seen.append(state.norms, step=number)
        gradients.append(jax.jit(layer_norms)(grads), step=number)
        params = optax.apply_updates(params, jax.tree.map(lambda g: -0.01 * g, grads))
    np.testing.assert_array_equal(seen.steps, [10, 20, 30])
    np.testing.assert_array_equal(gradients.norms, seen.norms)
    assert seen.norms.shape == (3, 2)
    # The first: dL/da = 2 x'(xab)b', dL/db = 2 (xa)'(xab), with a = 1 and b = 3.
    xa, xab = np.array([1.0, 2.0]), np.array([3.0, 6.0])
    np.testing.assert_allclose(
        seen.norms[0],
        [np.linalg.norm(2 * np.outer(xa, 3 * xab)), np.linalg.norm(2 * np.outer(xa, xab))],
        rtol=1e-6,
    )
    assert (seen.norms[1] < seen.norms[0]).all()


def test_the_recorder_counts_and_goes_on_after_it_was_read():
    recorder = NormRecorder(["a", "b"])
    recorder.append([1, 2])
    np.testing.assert_array_equal(recorder.norms, [[1, 2]])
    recorder.append({"b": 4, "a": 3})
    recorder.append(jnp.array([5, 6]), step=8)
    recorder.append([7, 8])
    np.testing.assert_array_equal(recorder.norms, [[1, 2], [3, 4], [5, 6], [7, 8]])
    np.testing.assert_array_equal(recorder.steps, [0, 1, 8, 9])


@pytest.mark.parametrize("norms", [[1.0], {"a": 1.0}, {"a": 1.0, "c": 2.0}, 1.0])
def test_the_recorder_refuses_other_layers(norms):
    with pytest.raises(ValueError, match=r"norms must have"):
        NormRecorder(["a", "b"]).append(norms)


def test_distances_are_numpys():
    rng = np.random.default_rng(0)
    shapes = {"bias": (3,), "in": (2, 3), "out": (3, 1)}
    first, second = (
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(2)
    )
    found = distance_between(first, jax.tree.map(jnp.asarray, second))
    assert list(found.layers) == ["in", "out"]
    for names, got in [
        (list(shapes), found.whole),
        (["in"], found.layers["in"]),
        (["out"], found.layers["out"]),
    ]:
        a, b = (
            np.concatenate([tree[n].ravel() for n in names], dtype=np.float64)
            for tree in (first, second)
        )
        np.testing.assert_allclose(got.euclidean, np.sqrt(np.sum((a - b) ** 2)), rtol=1e-12)
        scale = (np.sqrt(np.sum(a**2)) + np.sqrt(np.sum(b**2))) / 2
        np.testing.assert_allclose(got.relative, got.euclidean / scale, rtol=1e-12)


def test_distance_of_a_point_to_itself_and_to_its_opposite():
    w = {"w": jnp.array([[3.0, 4.0]])}
    zero = {"w": jnp.zeros((1, 2))}
    assert distance_between(w, w).whole == (0, 0)
    assert distance_between(zero, zero).whole == (0, 0)
    assert distance_between(w, {"w": -w["w"]}).whole == (10, 2)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"w": jnp.ones((2, 1))}, r"'w' is \(1, 2\) in first and \(2, 1\) in second"),
        ({"v": jnp.ones((1, 2))}, r"'v' is missing in first"),
    ],
)
def test_different_networks_have_no_distance(second, message):
    with pytest.raises(ValueError, match=message):
        distance_between({"w": jnp.ones((1, 2))}, second)


def test_batches_of_different_sizes_are_refused():
    batches = [jnp.ones((4, 2)), jnp.ones((3, 2))]
    with pytest.raises(ValueError, match=r"batches\[1\] has the shapes \['float32\[3, 2\]'\]"):
        sam_ball(lambda w, x: jnp.mean(x @ w), jnp.ones(2), batches=batches)


def test_a_recorder_keeps_what_is_given_away_or_written_over():
    recorder = NormRecorder(["a", "b"])
    double, norms, buffer = jax.jit(lambda x: 2 * x, donate_argnums=0), jnp.ones(2), np.zeros(2)
    for step in range(3):
        recorder.append(norms)
        norms, buffer[:] = double(norms), step
        recorder.append(buffer)
        recorder.append({"a": buffer[:1].reshape(()), "b": 0.0})
    want = [row for n in range(3) for row in ([2**n] * 2, [n, n], [n, 0])]
    np.testing.assert_array_equal(recorder.norms, want)
