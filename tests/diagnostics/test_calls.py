"""What losses are given: flags that stay flags; and means over many batches of half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from lsam_jax import diagnostics

W, X = jnp.ones((3, 2)), jnp.ones((4, 3))
KEY = jax.random.key(0)


def flagged(w, x, train, mode, axis, rate):
    """0 unless each is what was passed, as `jax.grad` would pass it."""
    if train is not True or mode != "twice" or not isinstance(axis, int):
        return 0.0 * jnp.sum(w)
    return rate * jnp.sum(jnp.sum(x @ w, axis=axis) ** 2)


FLAGS = (True, "twice", 1, 0.5)
MEASURES = {
    "sam_ball": lambda *args, **kw: diagnostics.sam_ball(*args, **kw).rise,
    "gradient_norms": lambda *args, **kw: diagnostics.gradient_norms(*args, **kw)[""],
    "trace": lambda *args, **kw: diagnostics.hessian_trace(*args, key=KEY, **kw).mean,
    "eigenvalues": lambda *args, **kw: diagnostics.hessian_eigenvalues(*args, key=KEY, **kw),
    "product": lambda f, w, *args, **kw: diagnostics.hessian_vector_product(f, w, w, *args, **kw),
    "layer": lambda *args, **kw: (
        diagnostics.layer_landscape(*args, layer="", key=KEY, steps=[0, 1], **kw).loss
    ),
    "model": lambda *args, **kw: (
        diagnostics.model_landscape(*args, key=KEY, steps=[0, 1], **kw).loss
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_no_array_is_passed_on_as_it_is(name):
    measure = MEASURES[name]

    def plain(w, x):
        return flagged(w, x, *FLAGS)

    want = measure(plain, W, X)
    assert np.abs(np.asarray(want)).max() > 0.1
    np.testing.assert_allclose(measure(flagged, W, X, *FLAGS), want, rtol=1e-5)
    np.testing.assert_allclose(measure(flagged, W, *FLAGS, batches=[X, X]), want, rtol=1e-5)
    assert not np.any(measure(flagged, W, X, False, *FLAGS[1:]))  # not the compiled one again
    assert not np.any(measure(flagged, W, X, 1, *FLAGS[1:]))  # though 1 == True


def test_numbers_in_batches_are_traced():
    traces = []

    def loss_fn(w, batch):
        traces.append(1)
        return batch["rate"] * jnp.sum(batch["x"] @ w) if batch["kind"] == "a" else 0.0

    batches = [{"x": X, "rate": float(rate), "kind": "a"} for rate in range(5)]
    found = diagnostics.gradient_norms(loss_fn, W, batches=batches)[""]
    np.testing.assert_allclose(found, 2 * 4 * np.sqrt(6), rtol=1e-6)
    assert len(traces) == 1


def test_what_cannot_be_hashed_is_refused():
    with refused(TypeError, "args must hold arrays", "{1}", "close over it"):
        diagnostics.sam_ball(lambda w, x, found: jnp.sum(w), W, X, {1})


def test_means_over_many_batches_are_formed_in_single_precision():
    """All batches are the same, so their mean is each of them."""
    w, batches = W.astype(jnp.bfloat16), [X.astype(jnp.bfloat16)] * 300

    def loss_fn(w, x):
        return jnp.sum((x @ w) ** 2) / 8

    for name, measure in MEASURES.items():
        want = measure(loss_fn, w, batches[0])
        got = measure(loss_fn, w, batches=batches)
        assert jax.tree.map(jnp.result_type, got) == jax.tree.map(jnp.result_type, want)
        np.testing.assert_allclose(
            *(np.asarray(x, np.float64) for x in (got, want)), rtol=1e-2, err_msg=name
        )
