"""Objects of NNX among the arguments of a loss: used by both passes, changed once.

The oracle is NNX's own `value_and_grad`, which changes them in the clean pass.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from refusals import refused
from training import RHO, assert_same

import lsam_jax as lsam
from lsam_jax.integrations import nnx as lsam_nnx

X = jax.random.normal(jax.random.key(1), (16, 4))


class Model(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.first, self.norm = (
            nnx.Linear(4, 8, use_bias=False, rngs=rngs),
            nnx.BatchNorm(8, rngs=rngs),
        )
        self.dropout, self.last = nnx.Dropout(0.5), nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x, rngs=None):
        h = nnx.relu(self.norm(self.first(x)))
        return self.last(h if rngs is None else self.dropout(h, rngs=rngs))


def by_draws(model, rngs, x):
    return jnp.mean((model(x, rngs) - 1) ** 2)


def by_teacher(model, teachers, x):
    return jnp.mean((model(x) - teachers["one"](x)) ** 2)


def by_metric(model, metric, x):
    out = model(x)
    metric.update(values=out)
    return jnp.mean((out - 1) ** 2)


def by_variable(model, shift, x):
    shift[...] = shift[...] + 1
    return jnp.mean((model(x) - shift[...]) ** 2)


CASES = {
    "rngs": (by_draws, lambda: nnx.Rngs(3)),
    "teacher": (by_teacher, lambda: {"one": Model(5), "none": None}),
    "metric": (by_metric, nnx.metrics.Average),
    "variable": (by_variable, lambda: nnx.Variable(jnp.zeros(()))),
}


def arrays(tree):
    state = nnx.state([tree])
    data = lambda x: jax.random.key_data(x) if x.dtype.name.startswith("key") else x  # noqa: E731
    return jax.tree.map(data, jax.tree.leaves(state))


def moved(model, grads):
    """A copy of the model at the perturbed weights."""
    size = optax.tree.norm(grads)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    there = jax.tree.map(lambda w, g: w + RHO * g / size, params, grads)
    return nnx.merge(graphdef, there, rest, copy=True)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_both_passes_use_them_and_the_clean_one_changes_them(name, traced):
    loss_fn, make = CASES[name]
    plain = nnx.value_and_grad(loss_fn)
    model, other = Model(0), make()
    copies = nnx.clone(model), nnx.clone([other])[0]
    want_loss, g = plain(*copies, X)
    _, want = plain(moved(model, g), nnx.clone([other])[0], X)

    tx = lsam.sam(RHO)
    ours = lsam_nnx.value_and_grad(loss_fn, tx)
    step = (nnx.jit if traced else lambda f: f)(ours)
    loss, grads, _ = step(model, tx.init(nnx.state(model, nnx.Param)), other, X)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    assert_same(jax.tree.leaves(grads), jax.tree.leaves(want), 1e-4)
    assert_same(arrays([model, other]), arrays([*copies]), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_of_a_part_of_the_batch_by_name_and_in_a_chain(name):
    loss_fn, make = CASES[name]
    model, tx = Model(0), lsam.sam(RHO)
    state = tx.init(nnx.state(model, nnx.Param))
    taken = {"ascent_batch": 1 / 2, "batch_argnums": 2, "clean_aux": True}
    other, same = make(), make()
    step = lsam_nnx.value_and_grad(loss_fn, tx, **taken)
    step(nnx.clone(model), state, other, X)
    loss_fn(nnx.clone(model), same, X[::2])
    assert_same(arrays(other), arrays(same), 1e-6)

    copy, named, before = nnx.clone(model), make(), arrays(make())
    by_name = lsam_nnx.value_and_grad(lambda model, x, other: loss_fn(model, other, x), tx)
    _, want, _ = by_name(copy, state, X, other=named)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    value_fn = lsam_nnx.make_value_fn(model, loss_fn, other := make(), X)
    updates, _ = tx.update(want, state, nnx.state(model, nnx.Param), value_fn=value_fn)
    assert_same(jax.tree.leaves(updates), jax.tree.leaves(want), 1e-5)
    assert_same(arrays(other), before, 0)
    optimizer.update(model, want, value_fn=value_fn)


def test_what_is_part_of_the_model_is_refused():
    model, tx = Model(0), lsam.sam(RHO)
    step = lsam_nnx.value_and_grad(lambda model, norm, x: jnp.mean(model(x)), tx)
    with refused(ValueError, "BatchNorm among the arguments", "nnx.clone"):
        step(model, tx.init(nnx.state(model, nnx.Param)), model.norm, X)
