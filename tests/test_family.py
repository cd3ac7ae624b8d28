"""Every method of the family against its textbook, through every face."""

import family
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from family_textbook import Problem
from jax.flatten_util import ravel_pytree
from textbook import named, relative_error
from training import EXACT, textbook_gradient

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

STEPS, LR = 12, 0.1


class Batched:
    """A function of the weights and of the batch of the step that it is at."""

    def __init__(self, fun, batches):
        self.fun, self.batches, self.count = fun, batches, 0

    def __call__(self, w):
        return self.fun(w, self.batches[self.count % len(self.batches)])


def masks(params, order):
    sizes = {n: np.size(x) for n, x in named(params).items()}
    ends = np.cumsum(list(sizes.values()))
    places = np.arange(ends[-1])
    every = {n: (places >= e - s) & (places < e) for (n, s), e in zip(sizes.items(), ends)}
    return {n: every[n] for n in order}, every


def of_network(name):
    """A problem, its parameters and its loss for lsam_jax."""
    case = zoo.build(name)
    _, unravel = ravel_pytree(case.params)
    both = textbook_gradient(case.loss)
    loss = Batched(lambda w, b: float(both(unravel(jnp.asarray(w)), b)[0][0]), case.batches)
    gradient = Batched(
        lambda w, b: np.asarray(ravel_pytree(both(unravel(jnp.asarray(w)), b)[1])[0]), case.batches
    )
    layers, arrays = masks(case.params, case.order)
    problem = Problem(loss, gradient, layers, arrays, lsam.layer_names(case.params), None, None)
    return problem, case.params, lambda w, b: case.loss(w, b)[0], case.batches


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


def steps_of(tx, value, face):
    """`(params, state, batch) -> (loss, direction, state)`, jitted."""
    if face == "value_and_grad":
        return jax.jit(lsam.value_and_grad(value, tx))

    @jax.jit
    def step(params, state, batch):
        loss, g = jax.value_and_grad(value)(params, batch)
        direction, state = tx.update(
            g, state, params, grad_fn=lambda params: jax.grad(value)(params, batch)
        )
        return loss, direction, state

    return step


def cases():
    """Each method on a network by its loss, and on the quadratic by gradients where they suffice.

    Where layers are chosen, the network by gradients too: ties are settled in another order.
    """
    for name, row in family.TABLE.items():
        yield pytest.param(name, "value_and_grad", "branches", marks=pytest.mark.core)
        yield name, "grad_fn" if row.grad_fn else "value_and_grad", "quadratic"
        if "layerwise" in name:
            yield pytest.param(name, "grad_fn", "branches", marks=pytest.mark.core)


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
    names = lsam.layer_names(params, tx.recipe.layers)

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
