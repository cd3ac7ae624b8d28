"""How much of a perturbation is left in half precision."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from refusals import refused

import lsam_jax as lsam

pytestmark = pytest.mark.core


def weights(dtype):
    rng = np.random.default_rng(0)
    return {n: jnp.asarray(rng.normal(size=(60, 50)), dtype) for n in "ab"}


@pytest.mark.parametrize("rho", [0.005, 0.05, 0.5, 5.0])
def test_like_numpy(rho):
    w, g = weights("bfloat16"), jax.tree.map(jnp.sin, weights("bfloat16"))
    tx = lsam.sam(rho)
    got = jax.jit(lambda: lsam.perturbation_survival(tx, w, g, tx.init(w)))()
    flat = lambda t: np.concatenate([np.float32(x).ravel() for x in jax.tree.leaves(t)])  # noqa: E731
    w, g = flat(w), flat(g)
    intended = rho * g / np.linalg.norm(g)
    done = np.float32((w + intended).astype(ml_dtypes.bfloat16)) - w
    lost = np.linalg.norm(done - intended) / np.linalg.norm(intended)
    assert float(got) == pytest.approx(max(0, 1 - lost), abs=2e-3)
    assert (got < 0.9) == (rho < 1)


def test_single_precision_keeps_all_and_nothing_is_all_of_nothing():
    w = weights("float32")
    tx = lsam.sam(0.05)
    assert lsam.perturbation_survival(tx, w, w, tx.init(w)) > 0.99
    traced = jax.make_jaxpr(lambda w: lsam.perturbation_survival(tx, w, w, tx.init(w)))(w)
    assert "sqrt" not in str(traced)  # of the norms
    zero = jax.tree.map(jnp.zeros_like, w)
    assert lsam.perturbation_survival(tx, w, zero, tx.init(w)) == 1


def test_only_the_layers_that_were_perturbed():
    w = {"a": jnp.ones((50, 50), jnp.bfloat16), "b": jnp.full((50, 50), 1e-3, jnp.bfloat16)}
    tx = lsam.layerwise_sam(1, 0.01, normalize=True)
    state = tx.init(w)._replace(selected=jnp.asarray([False, True]))
    survives = lsam.perturbation_survival(tx, w, w, state)
    lost = lsam.perturbation_survival(tx, w, w, state._replace(selected=jnp.asarray([True, False])))
    assert lost == 0
    assert survives > 0.9


def test_half_precision_neither_overflows_nor_vanishes_on_its_way_uphill():
    """Of a loss with gradient (300, 3), and of one with (2e-4, 2e-4): exact to half precision."""
    small, tx = jnp.full(2, 1e-2, jnp.float16), lsam.fisher_sam(1.0)
    loss = lambda w: 300 * w[0] + 3 * w[1]  # noqa: E731
    state = lsam.value_and_grad(loss, tx)(small, tx.init(small))[2]
    f = 1 + np.asarray([300.0, 3.0]) ** 2
    g = np.asarray([300.0, 3.0])
    assert float(state.rise) == pytest.approx(np.sqrt(g @ (g / f)), rel=0.02)
    tx = lsam.asam(0.5)
    loss = lambda w: jnp.float16(2e-4) * jnp.sum(w)  # noqa: E731
    state = lsam.value_and_grad(loss, tx)(small, tx.init(small))[2]
    assert float(state.rise) == pytest.approx(0.5 * 2e-4 * 0.02 * np.sqrt(2), rel=0.02)


def test_of_a_chain_is_refused():
    with refused(TypeError, "tx must be what", "GradientTransformationExtraArgs"):
        lsam.perturbation_survival(optax.chain(lsam.sam()), jnp.ones(2), jnp.ones(2), None)
