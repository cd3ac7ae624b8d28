"""Every method of the family against its textbook, through every face."""

import family
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import NAMES
from family_steps import Batched, masks, of_network, steps_of
from family_textbook import Problem
from jax.flatten_util import ravel_pytree
from textbook import relative_error
from training import EXACT

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

STEPS, LR = 12, 0.1


def of_quadratic():
    """1/2 w'Aw: gradients are products with A, and so is every step of every method."""
    rng = np.random.default_rng(0)
    shapes = {"deep": {"w": (3, 2), "b": (2,)}, "join": {"w": (2, 2), "b": (2,)}}
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s)), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    size = sum(np.size(x) for x in jax.tree.leaves(params))
    A = rng.normal(size=(size, size))
    A = A @ A.T / size
    order = ("deep/w", "join/w")
    layers, arrays = masks(params, order)
    loss = Batched(lambda w, b: 0.5 * w @ A @ w, [None])
    problem = Problem(loss, Batched(lambda w, b: A @ w, [None]), layers, arrays, order, None, None)

    def value(w, batch):
        flat = ravel_pytree(w)[0]
        return 0.5 * flat @ A @ flat

    return problem, params, value, [np.zeros(())]


def cases():
    """Each method on a network by its loss, and on the quadratic by gradients where they suffice.

    Where layers are chosen, the network by gradients too: ties are settled in another order.
    """
    for name, row in family.TABLE.items():
        yield pytest.param(name, "value_and_grad", "branches", marks=pytest.mark.core)
        yield name, "grad_fn" if row.grad_fn else "value_and_grad", "quadratic"
        if "layerwise" in name:
            yield pytest.param(name, "grad_fn", "branches", marks=pytest.mark.core)


def test_every_method_has_a_textbook():
    elsewhere = {"layerwise_sam", "functional_sam"}  # test_running.py, test_losses_in_parts.py
    assert set(NAMES) <= set(family.TABLE) | elsewhere


@pytest.mark.slow
@pytest.mark.parametrize(("name", "face", "model"), list(cases()))
def test_like_the_textbook(name, face, model):
    problem, params, value, batches = of_quadratic() if model == "quadratic" else of_network(model)
    row = family.TABLE[name]
    tx = row.make()
    step = steps_of(tx, value, face)
    order = tuple(problem.layers) if face != "grad_fn" else problem.order
    w, unravel = ravel_pytree(params)
    w, state = np.asarray(w), tx.init(params)
    names = lsam.layer_names(params, tx.method.layers)

    def selected():
        return {name for name, on in zip(names, state.selected, strict=True) if on}

    def mask():
        moves = jax.tree.leaves(before.memory.perturbation.moves)
        return np.concatenate([np.ravel(m) for m in moves])

    want = row.want(problem._replace(selected=selected, mask=mask), order)
    for count in range(STEPS):
        problem.loss.count = problem.gradient.count = count
        at = unravel(jnp.asarray(w))
        before = state
        loss, direction, state = step(at, state, batches[count % len(batches)])
        expected = want(w, count)
        assert relative_error(np.asarray(ravel_pytree(direction)[0]), expected) <= EXACT, count
        if face != "value_and_grad" or row.clean:
            assert abs(loss - problem.loss(w)) <= EXACT
        w = w - LR * expected
    assert state.count == STEPS
