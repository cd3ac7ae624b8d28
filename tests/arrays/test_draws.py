"""Draws of different parts say nothing of each other, though all have the seed 0 by default.

The oracle: frequencies of independent draws, within five standard deviations.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam

LAYERS, STEPS = 5, 2000


def squares(w, x=0.0):
    return sum(a**2 for a in w) + jnp.sum(0 * x)


SOMETIMES = lsam.bernoulli(0.5)
PAIRS = {
    "random": (lsam.layerwise_sam(1, 0.1, selection="random", layers="array"), 1 / LAYERS),
    "independent": (lsam.esam(0.1, 0.6, 1.0), 0.6),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_layers_of_a_step_do_not_depend_on_whether_it_is_due(name):
    tx, share = PAIRS[name]
    tx = lsam.with_parts(tx, when=SOMETIMES)
    w = [jnp.ones(()) for _ in range(LAYERS)]
    step = lsam.value_and_grad(squares, tx)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: (step(w, s)[2], 0), s, None, length=STEPS)[0])
    p = share / 2
    found = run(tx.init(w)).perturbations / STEPS
    assert (abs(found - p) < 5 * np.sqrt(p * (1 - p) / STEPS)).all(), found


def test_the_samples_of_a_step_do_not_depend_on_whether_it_is_due():
    w, tx = [jnp.ones(())], lsam.sam(0.1)
    step = lsam.value_and_grad(
        lambda w, x: (squares(w), x), tx, True,
        ascent_batch=1, ascent_samples=jax.random.key(0), clean_aux=True,
    )  # fmt: skip
    state = tx.init(w)

    def samples(count):
        return step(w, state._replace(count=count), jnp.arange(8))[0][1][0], SOMETIMES.due(count)

    drawn, due = jax.jit(jax.vmap(samples))(jnp.arange(STEPS, dtype=jnp.int32))
    found = np.bincount(drawn[due], minlength=8) / STEPS
    assert (abs(found - 1 / 16) < 5 * np.sqrt(1 / 16 / STEPS)).all(), found


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mask_does_not_depend_on_weights_drawn_by_the_same_seed(seed):
    key = jax.random.key(seed)
    w = [jax.random.normal(jax.random.fold_in(key, n), (64, 64)) for n in range(3)]
    masks = lsam.sparse_sam(0.1, seed=seed).init(w).memory.perturbation.moves
    for a, mask in itertools.product(w, masks):
        assert abs(np.corrcoef(np.ravel(a) > 0, np.ravel(mask))[0, 1]) < 5 / 64


def test_seeds_and_steps_are_apart():
    coins = [[bool(lsam.bernoulli(0.5, seed).due(t)) for t in range(64)] for seed in (0, 1)]
    assert 16 < sum(a != b for a, b in zip(*coins)) < 48
    assert 16 < sum(coins[0]) < 48
