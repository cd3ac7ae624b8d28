"""A loss times a constant, as half precision needs it: which steps are the same times it.

Where one is not, the method's documentation says so, and how to do it right.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import METHODS, batch, loss, losses, outputs, parameters
from textbook import relative_error
from training import EXACT

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")
SCALE, RHO, STEPS, LR = 2.0**15, 0.1, 5, 0.05

DIFFERENT = ("layerwise_sam", "sl_sam", "fisher_sam")
SAME = {
    **{name: method for name, method in METHODS.items() if name not in DIFFERENT},
    "layerwise, normalized": partial(lsam.layerwise_sam, 1, RHO, 0.8, normalize=True),
    "layerwise, by layer": partial(lsam.layerwise_sam, 1, RHO, normalize="layer", norm_decay=0.5),
    "generalized, by layer": partial(lsam.generalized_sam, RHO, normalize="layer"),
    "sl_sam, scale free": partial(lsam.presets.sl_sam_scale_free, RHO, 0.5),
}
PLAIN = {
    "layerwise_sam": lambda rho: lsam.layerwise_sam(1, rho, 0.8),
    "generalized_sam": lambda rho: lsam.generalized_sam(rho, normalize=False),
    "sam_on": lambda rho: lsam.sam_on(rho, normalize=False),
    "fisher_sam": lambda rho: lsam.fisher_sam(RHO, (rho / RHO) ** 2),
}
SCALED_LOSSES = {
    "plain": lambda c: lambda p, x, y: c * loss(p, x, y),
    "split": lambda c: lsam.split_loss(
        outputs, lambda out, x, y: c * jnp.mean(jnp.sum((out - y) ** 2, 1))
    ),
    "per_sample": lambda c: lsam.per_sample(lambda p, x, y: c * losses(p, x, y), argnums=(1, 2)),
}


def directions(make, scales, kind="plain"):
    """Of some steps with the loss times each scale, at the same weights; unscaled."""

    @jax.jit
    def step(params, state, scale, x, y):
        value_and_grad = lsam.value_and_grad(SCALED_LOSSES[kind](scale), make(scale))
        _, direction, state = value_and_grad(params, state, x, y)
        return jax.tree.map(lambda d: d / scale, direction), state

    params = parameters()
    states = [make(1.0).init(params) for _ in scales]
    for n in range(STEPS):
        found = [step(params, s, c, *batch(n, size=8)) for s, c in zip(states, scales)]
        states = [state for _, state in found]
        yield [direction for direction, _ in found], states
        params = jax.tree.map(lambda w, d: w - LR * d, params, found[0][0])


def error(one, other):
    return max(map(relative_error, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.parametrize("name", SAME)
def test_a_step_is_the_same_times_the_scale(name):
    make, kind = SAME[name], getattr(SAME[name], "loss", "plain")
    for (one, scaled), states in directions(lambda c: make(), (1.0, SCALE), kind):
        assert error(scaled, one) <= EXACT
        assert np.array_equal(*(state.selected for state in states))
        np.testing.assert_allclose(states[1].norms, SCALE * states[0].norms, rtol=1e-6)
        np.testing.assert_allclose(states[1].sharpness, SCALE * states[0].sharpness, rtol=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_in_units_of_the_loss_is_divided_by_the_scale(name):
    """The scale is traced: it may change from step to step."""
    make = PLAIN[name]
    (one, scaled), _ = next(directions(lambda c: make(RHO), (1.0, SCALE)))
    assert error(scaled, one) > 0.05
    for (one, scaled), _ in directions(lambda c: make(RHO / c), (1.0, SCALE)):
        assert error(scaled, one) <= EXACT


def test_a_bandit_learns_another_distribution():
    *_, (_, states) = directions(lambda c: lsam.sl_sam(RHO, 0.5), (1.0, SCALE))
    one, scaled = (state.memory.selection.probability for state in states)
    assert error(scaled, one) > 0.1


def test_where_it_matters_the_documentation_says_so():
    for name in {*DIFFERENT, *PLAIN}:
        assert "loss scaling" in " ".join(getattr(lsam, name).__doc__.split()), name
    assert "scale of the loss" in " ".join(lsam.bandit.__doc__.split())


def test_a_dynamic_scale_in_a_chain():
    """`rho` is injected, and set from the scale before each step."""
    make = optax.inject_hyperparams(lsam.layerwise_sam, static_args=("k",))
    tx, params, (x, y) = make(k=1, rho=RHO), parameters(), batch()
    state = tx.init(params)

    @jax.jit
    def direction(scale):
        hyper = {**state.hyperparams, "rho": RHO / scale}
        scaled, _ = tx.update(
            params,
            state._replace(hyperparams=hyper),
            params,
            value_fn=lambda p: scale * loss(p, x, y),
        )
        return jax.tree.map(lambda d: d / scale, scaled)

    assert error(direction(SCALE), direction(1.0)) <= EXACT
