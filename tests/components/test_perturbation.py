"""How far the weights move where a norm is zero, or its square too small for the type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam

RHO = 0.5


def perturbed_gradient(slopes, normalize):
    """The gradient of sum(s w + w^2 / 2) at w = 0 and its neighbour: s + eps, and so eps."""
    w = {name: jnp.zeros(2, jnp.float32) for name in slopes}
    tx = lsam.generalized_sam(RHO, 1.0, normalize=normalize, layers="array")

    def loss(w):
        return sum(jnp.sum(s * w[n] + w[n] ** 2 / 2) for n, s in slopes.items())

    _, direction, _ = lsam.value_and_grad(loss, tx)(w, tx.init(w))
    return {n: np.asarray(direction[n] - jnp.asarray(s, jnp.float32)) for n, s in slopes.items()}


@pytest.mark.core
@pytest.mark.parametrize("normalize", [True, "layer"])
def test_a_layer_without_a_gradient_stays(normalize):
    eps = perturbed_gradient({"a": jnp.asarray([3.0, 4.0]), "b": jnp.zeros(2)}, normalize)
    np.testing.assert_allclose(eps["a"], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(eps["b"], 0)


@pytest.mark.core
def test_each_layer_moves_by_the_radius_whatever_its_gradient():
    slopes = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.asarray([0.0, 1e-12])}
    eps = perturbed_gradient(slopes, "layer")
    np.testing.assert_allclose(eps["a"], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(eps["b"], [0.0, RHO], rtol=1e-6)


@pytest.mark.core
def test_a_gradient_whose_square_is_too_small_for_the_type_moves_by_less():
    eps = perturbed_gradient({"a": jnp.asarray([1e-25, 0.0])}, "layer")["a"]
    assert np.isfinite(eps).all()
    assert 0 <= eps[0] <= 1e-3 * RHO


@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
@pytest.mark.parametrize("normalize", [True, "layer"])
def test_a_step_has_a_derivative_where_a_layer_has_no_gradient(normalize, mode, x64):
    w = {"a": jnp.asarray([0.3, -0.2]), "idle": jnp.ones(2)}

    def loss(w):
        return jnp.sum(jnp.sin(w["a"]) ** 2 + jax.nn.relu(w["a"] * w["idle"] - 9))

    def after(at):
        """The loss after a step, by a scale of the weights and the radius."""
        tx = lsam.generalized_sam(at[1], 1.0, normalize=normalize, layers="array")
        start = jax.tree.map(lambda w: w * at[0], w)
        direction = lsam.value_and_grad(loss, tx)(start, tx.init(w))[1]
        return loss(jax.tree.map(lambda w, d: w - 0.1 * d, start, direction))

    at, eps = jnp.asarray([1.0, RHO]), 1e-6 * jnp.eye(2)
    differences = [(after(at + e) - after(at - e)) / 2e-6 for e in eps]
    np.testing.assert_allclose(mode(after)(at), differences, rtol=1e-6)
