"""Layers that are forced to be selected, through the stored norms; one compilation serves all."""

import itertools

import jax
import jax.numpy as jnp
import textbook
from training import RHO, assert_same, textbook_gradient

import lsam_jax as lsam

ALPHA = 0.8


def subsets(order):
    return itertools.chain.from_iterable(
        itertools.combinations(order, k) for k in range(len(order) + 1)
    )


def forced_step(case, **options):
    """`chosen -> (loss, aux), grads, state` for a set of layers, compiled once."""
    names = lsam.layer_names(case.params)
    # The k layers of largest norm, k being the step count.
    tx = lsam.layerwise_sam(lambda count: count, RHO, ALPHA, **options)
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))

    def run(chosen):
        state = tx.init(case.params)._replace(
            count=jnp.asarray(len(chosen), jnp.int32),
            norms=jnp.asarray([n in chosen for n in names], jnp.float32),
        )
        out = step(case.params, state, case.batches[0])
        assert {n for n, s in zip(names, out[2].selected, strict=True) if s} == set(chosen)
        return out

    return run


def assert_exact(case, run, chosen, normalize):
    (loss, aux), grads, _ = run(chosen)
    gradient = textbook_gradient(case.loss)
    want = textbook.step(gradient, case.params, case.batches[0], chosen, RHO, ALPHA, normalize)
    assert_same((loss, aux), (want.loss, want.aux))
    assert_same(grads, textbook.unnamed(want.direction, grads))
