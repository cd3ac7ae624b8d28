"""What the tests of errors share."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

import lsam_jax as lsam

NAN, INF = float("nan"), float("inf")


def parameters():
    return {"body": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "head": {"w": jnp.ones((3, 2))}}


class Loss:
    """A loss that counts how often it is executed (not how often it is traced)."""

    def __init__(self, of_total=lambda total: total):
        self.of_total, self.executed = of_total, 0

    def count(self):
        self.executed += 1

    def __call__(self, params):
        jax.debug.callback(self.count)
        total = sum(jnp.sum(jnp.sin(w)) for w in jax.tree.leaves(params))
        return self.of_total(total)


@contextlib.contextmanager
def refused(kind, *words, loss=None):
    """An error of this kind whose message holds all words; the loss is not executed."""
    with pytest.raises(kind) as caught:
        yield
    jax.effects_barrier()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert loss is None or loss.executed == 0


def one_step(loss=None, params=None, state=None, k=1, rho=0.1, **options):
    """Everything that a user does, from the transformation to a step."""
    params = parameters() if params is None else params
    tx = lsam.layerwise_sam(k, rho, **options)
    state = tx.init(params) if state is None else state
    return lsam.value_and_grad(loss or Loss(), tx)(params, state)


def ids(table):
    """Names of cases: the words that their messages must hold."""
    return [" ".join(row[-1]) for row in table]


def update(**extra):
    tx = lsam.layerwise_sam(1, 0.1)
    return tx.update(parameters(), tx.init(parameters()), parameters(), **extra)
