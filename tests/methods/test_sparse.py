"""The masks of Sparse SAM: how many, which, and when they change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from jax.flatten_util import ravel_pytree
from refusals import refused
from textbook import relative_error
from training import EXACT, RHO, train

import lsam_jax as lsam

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.core]


def ones(state):
    return np.concatenate([np.ravel(m) for m in jax.tree.leaves(state.memory.perturbation.moves)])


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("layers", ["array", "kernel"])
def test_the_mask_has_its_share_and_is_random_at_first(sparsity, layers):
    params = zoo.build("branches").params
    masks = [
        ones(lsam.sparse_sam(RHO, sparsity, layers=layers, seed=s).init(params)) for s in (0, 1)
    ]
    total = sum(x.size for x in jax.tree.leaves(params) if layers == "array" or x.ndim > 1)
    assert all(m.size == total and m.sum() == round((1 - sparsity) * total) for m in masks)
    assert np.array_equal(*masks) == (sparsity == 0)


def test_sparsity_0_is_sam():
    case = zoo.build("branches")
    pairs = zip(train(case, lsam.sparse_sam(RHO, 0.0)), train(case, lsam.sam(RHO)))
    for got, want in pairs:
        a, b = ravel_pytree(got.grads)[0], ravel_pytree(want.grads)[0]
        assert relative_error(np.asarray(a), np.asarray(b)) <= EXACT


def test_fisher_is_the_mean_of_squared_gradients():
    """Of losses sin(x.w): gradients cos(x.w) x, one for each sample."""
    rng = np.random.default_rng(0)
    w, x = {"a": jnp.asarray(rng.normal(size=3)), "b": None}, jnp.asarray(rng.normal(size=(7, 3)))
    loss_fn = lsam.per_sample(lambda w, x: (jnp.sin(x @ w["a"]), {"aux": 1}))
    fisher = jax.jit(lambda w, x: lsam.empirical_fisher(loss_fn, w, x))(w, x)
    want = np.mean((np.cos(x @ w["a"])[:, None] * np.asarray(x)) ** 2, 0)
    assert relative_error(fisher["a"], want) <= EXACT
    assert fisher["b"] is None


def test_refresh_takes_the_largest_scores_of_all_arrays():
    params = zoo.build("branches").params
    flat, unravel = ravel_pytree(params)
    scores = np.random.default_rng(0).gamma(1.0, size=flat.size)
    tx = lsam.sparse_sam(RHO, 0.8)
    state = lsam.refresh_mask(tx, tx.init(params), unravel(jnp.asarray(scores)))
    kept = round(0.2 * flat.size)
    assert set(np.flatnonzero(ones(state))) == set(np.argsort(scores)[-kept:])
    for other in (lsam.sam(RHO), lsam.sparse_sam(RHO, dynamic=True), "tx"):
        with pytest.raises(TypeError, match="sparse_sam"):
            lsam.refresh_mask(other, state, params)
    with pytest.raises(TypeError, match="per_sample"):
        lsam.empirical_fisher(lambda w: w, params)


def test_dynamic_drops_the_smallest_gradients_and_grows_others():
    """Of given gradients (no radius, so nothing else happens), every third step."""
    w = {"a": jnp.zeros(40), "b": jnp.zeros((5, 12))}
    drops = [0.5, 0.4, 0.3, 0.25, 0.2, 0.1, 0.1]
    tx = lsam.sparse_sam(
        0.0, 0.6, dynamic=True, every=3, drop=lambda count: jnp.asarray(drops)[count]
    )
    update = jax.jit(lambda g, s: tx.update(g, s, w, grad_fn=lambda w: w)[1])
    state, rng, grown = tx.init(w), np.random.default_rng(0), []
    for count in range(7):
        g = rng.normal(size=100)
        before = ones(state)
        state = update({"a": jnp.asarray(g[:40]), "b": jnp.asarray(g[40:].reshape(5, 12))}, state)
        after = ones(state)
        if count % 3 != 2:
            assert np.array_equal(after, before)
            continue
        gone = np.flatnonzero(before & ~after)
        n = round(drops[count] * 40)
        assert set(gone) == set(np.flatnonzero(before)[np.argsort(np.abs(g[before]))[:n]])
        assert after.sum() == 40
        grown.append(np.flatnonzero(after & ~before))
        assert grown[-1].size == n
        assert not np.array_equal(grown[-1], np.flatnonzero(~before)[:n])  # not just the first
    assert len(grown) == 2


@pytest.mark.parametrize(
    ("when", "every", "steps"),
    [
        (None, 3, [2, 5, 8, 11]),
        (lsam.every(2), 4, [4, 8]),
        (lsam.every(2), 3, [2, 6, 10]),
        (lsam.every(3), 3, [3, 6, 9]),
        (lsam.between(5), 3, [5, 8, 11]),
    ],
)
def test_a_mask_changes_in_the_first_step_that_perturbs_once_it_is_due(when, every, steps):
    w = jnp.arange(1.0, 21.0)
    tx = lsam.with_parts(lsam.sparse_sam(RHO, dynamic=True, every=every), when=when)
    update = jax.jit(lambda s: tx.update(w, s, w, grad_fn=jnp.sin)[1])
    state, changed = tx.init(w), []
    for count in range(12):
        before, state = ones(state), update(state)
        changed += [count] * (not np.array_equal(before, ones(state)))
    assert changed == steps


def test_a_dynamic_state_that_does_not_say_when_its_mask_changed_is_refused():
    """As versions before saved it."""
    w, tx = jnp.ones(4), lsam.sparse_sam(RHO, dynamic=True)
    state = tx.init(w)
    mask = state.memory.perturbation._replace(changed=())
    old = state._replace(memory=state.memory._replace(perturbation=mask))
    for saved in (old, {**old._asdict(), "memory": {"perturbation": {"moves": mask.moves}}}):
        with refused(ValueError, "state", "tx.init(params)"):
            tx.update(w, saved, w, grad_fn=jnp.sin)


@pytest.mark.slow
def test_parts_of_a_batch_change_one_mask():
    """Parts that perturb apart (`m=`) drop by their mean gradient, which is that of the batch."""
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 5))), "b": jnp.asarray(rng.normal(size=(5, 2)))}
    x = jnp.asarray(rng.normal(size=(8, 3)))
    tx = lsam.sparse_sam(RHO, 0.5, dynamic=True, every=1)
    found = []
    for parts in ({}, {"m": 2}):
        step = jax.jit(
            lsam.value_and_grad(
                lambda p, x: jnp.mean((jnp.tanh(x @ p["a"]) @ p["b"]) ** 2), tx, **parts
            )
        )
        found.append(ones(step(params, tx.init(params), x)[2]))
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], ones(tx.init(params)))


def test_fisher_of_half_precision_is_summed_in_single():
    loss_fn = lsam.per_sample(lambda w, x: x @ w)
    for dtype in (jnp.bfloat16, jnp.float16):
        w, x = jnp.ones(1, dtype), jnp.full((1000, 1), 1e-3, dtype)
        found = lsam.empirical_fisher(loss_fn, w, x)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, 1e-6, rtol=1e-2)
