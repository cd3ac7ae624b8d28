"""Scalars that are computed at once, and flags taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam
from lsam_jax.arrays.at_once import at_once
from lsam_jax.arrays.vectors import WINDOW, one_by_one

pytestmark = pytest.mark.core


def following(numbers):
    a, b, steps = numbers
    return jnp.exp(a) - b, a * b, steps + 1


NUMBERS = jnp.float32(0.5), jnp.float32(2.0), jnp.int32(7)


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eagerly", "compiled"])
def test_gives_what_the_function_gives(run):
    found = run(lambda x: at_once(following, x))(NUMBERS)
    np.testing.assert_allclose(found, [np.exp(0.5) - 2, 1, 8], rtol=1e-6)
    assert [x.dtype for x in found] == ["float32", "float32", "int32"]


def test_for_several_seeds():
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), NUMBERS)
    found = jax.jit(jax.vmap(lambda x: at_once(following, x)))(many)
    np.testing.assert_allclose(found, [[np.exp(0.5) - 2, np.e - 4], [1, 4], [8, 15]], rtol=1e-6)


@pytest.mark.parametrize("platform, loops", [("cpu", 1), ("tpu", 0), ("cuda", 0)])
def test_is_a_loop_for_a_cpu_alone(platform, loops):
    traced = jax.jit(lambda x: at_once(following, x)).trace(NUMBERS)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == loops


def test_a_radius_that_sets_itself_stays_a_loop(optimized):
    """XLA unrolls what it knows to run once."""
    tx, w = lsam.sam(lsam.rise(share=0.4)), jnp.ones(3)
    step = jax.jit(lsam.value_and_grad(lambda w: jnp.sum(w**2), tx))
    assert step.lower(w, tx.init(w)).compile().as_text().count(" while(") == 1


@pytest.mark.parametrize("count", [1, WINDOW, 2 * WINDOW + 3])
def test_flags_one_by_one(count):
    flags = np.arange(count) % 3 == 1
    assert [bool(x) for x in one_by_one(jnp.asarray(flags), range(count))] == flags.tolist()


def test_flags_of_rows():
    flags, rows = np.arange(2 * WINDOW) % 3 == 1, (2 * WINDOW - 3, 0, WINDOW)
    found = one_by_one(jnp.asarray(flags), [rows, WINDOW])
    assert found[0].tolist() == flags[list(rows)].tolist()
    assert bool(found[1]) == flags[WINDOW]


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eagerly", "compiled"])
def test_derivatives_are_the_functions(run):
    def ends(function):
        return lambda a, b: sum(function((a, b, jnp.int32(7)))[:2])

    got = run(jax.grad(ends(lambda x: at_once(following, x)), (0, 1)))(*NUMBERS[:2])
    np.testing.assert_allclose(got, [np.exp(0.5) + 2, -1 + 0.5], rtol=1e-6)
    forward = run(jax.jacfwd(ends(lambda x: at_once(following, x)), (0, 1)))(*NUMBERS[:2])
    np.testing.assert_allclose(forward, got, rtol=1e-6)


def test_a_derivative_through_steps_whose_radius_sets_itself(x64):
    """Of what five steps come to, by the weights that they start from: against differences."""
    tx = lsam.sam(lsam.rise(share=0.4))
    step = lsam.value_and_grad(lambda w: jnp.sum(jnp.cosh(w)), tx)

    def end(w):
        state = tx.init(w)
        for _ in range(5):
            _, direction, state = step(w, state)
            w = w - 0.05 * direction
        return jnp.sum(w**3)

    w, d, c = jnp.asarray([1.0, -0.5, 2.0]), jnp.asarray([0.3, 1.0, -0.2]), 1e-4
    run = jax.jit(end)
    difference = (run(w + c * d) - run(w - c * d)) / (2 * c)
    assert float(jax.jit(jax.grad(end))(w) @ d) == pytest.approx(float(difference), rel=1e-5)
