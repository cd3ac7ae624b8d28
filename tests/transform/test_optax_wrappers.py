"""Optax's wrappers around a method, and those behind it: which descend what.

The rest is in test_optax.py, test_optax_errors.py and test_surroundings.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")
RHO, LR, STEPS = 0.3, 0.1, 6
A = np.random.default_rng(0).normal(size=(4, 4))
A = A @ A.T
START = np.asarray([1.0, -2.0, 0.5, 1.5])


def loss(w):
    return w @ A @ w / 2


def by_hand(w):
    g = A @ w
    return A @ (w + RHO * g / jnp.sqrt(jnp.sum(g * g)))


def run(tx, direction=None):
    """The weights after each step, by `value_fn`; or with what `direction` gives as gradients."""

    @functools.partial(jax.jit, static_argnums=2)
    def update(w, state, given):
        grads = jax.grad(loss)(w) if given is None else given(w)
        extra = {"value_fn": loss} if given is None else {}
        updates, state = tx.update(grads, state, w, **extra)
        return optax.apply_updates(w, updates), state

    w, found = jnp.asarray(START), []
    state = tx.init(w)
    for _ in range(STEPS):
        w, state = update(w, state, direction)
        found.append(np.asarray(w))
    return found


def on_even_steps(step):
    return step % 2 == 0


@pytest.mark.parametrize("name", ["transform", "mask", "apply_every"])
def test_now_and_then(name):
    """Each against a loop by hand."""
    sam, w, total = lsam.sam(RHO), START, 0
    tx = {
        "transform": optax.chain(optax.conditionally_transform(sam, on_even_steps), optax.sgd(LR)),
        "mask": optax.conditionally_mask(optax.chain(sam, optax.sgd(LR)), on_even_steps),
        "apply_every": optax.chain(sam, optax.apply_every(3), optax.sgd(LR)),
    }[name]
    for count, got in enumerate(run(tx)):
        if name == "transform":  # SAM every second step, the plain gradient between
            w = w - LR * (by_hand(w) if count % 2 == 0 else A @ w)
        elif name == "mask":  # and nothing between
            w = w - LR * by_hand(w) * (count % 2 == 0)
        else:  # the sum of three directions
            total = total + by_hand(w)
            if count % 3 == 2:
                w, total = w - LR * total, 0
        np.testing.assert_allclose(got, w, rtol=1e-10)


def mechanize(base):
    return optax.contrib.mechanize(base, s_init=0.1)


BEHIND = {
    "mechanize": lambda: mechanize(optax.sgd(LR)),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(LR), LR),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(LR), 3),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.adam(LR), on_even_steps),
}


@pytest.mark.parametrize("name", BEHIND)
def test_behind_it_is_as_with_the_direction_for_a_gradient(name):
    got = run(optax.chain(lsam.sam(RHO), BEHIND[name]()))
    np.testing.assert_allclose(got, run(BEHIND[name](), by_hand), rtol=1e-9)


def test_mechanize_around_learns_its_scale_from_the_plain_gradient():
    """So behind is its place: around, it takes `updates` for the gradient, besides the method."""
    around = run(mechanize(optax.chain(lsam.sam(RHO), optax.sgd(LR))))
    behind = run(optax.chain(lsam.sam(RHO), mechanize(optax.sgd(LR))))
    assert not np.allclose(around, behind, rtol=1e-3)
