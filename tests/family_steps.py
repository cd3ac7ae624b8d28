"""Steps of a method of the family, through every face."""

import jax
import jax.numpy as jnp
import numpy as np
import zoo
from family_textbook import Problem
from jax.flatten_util import ravel_pytree
from textbook import named
from training import textbook_gradient

import lsam_jax as lsam


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
