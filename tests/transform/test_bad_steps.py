"""Bad losses, parameters, states and calls: refused with a way out, before anything runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import Loss, ids, one_step, parameters, refused, update

import lsam_jax as lsam

LOSSES = [
    (lambda total: jnp.stack([total, total]), ["scalar", "(2,)", "mean"]),
    (lambda total: total[None], ["scalar", "(1,)"]),
    (lambda total: total + 0j, ["real", "complex64"]),
    (lambda total: total.astype(int), ["int32"]),
    (lambda total: total > 0, ["bool"]),
    (lambda total: (total, total), ["has_aux=True"]),
    (lambda total: {"loss": total}, ["scalar", "loss"]),
    (lambda total: None, ["scalar", "None"]),
]


FACES = {
    "value_and_grad": one_step,
    "value_fn": lambda loss: update(value_fn=loss),
    "inspect": lambda loss: lsam.inspect(loss, parameters(), has_aux=False),
}


@pytest.mark.parametrize(("of_total", "words"), LOSSES, ids=ids(LOSSES))
@pytest.mark.parametrize("face", FACES)
def test_a_loss_that_is_no_real_scalar(of_total, words, face):
    loss = Loss(of_total)
    with refused(TypeError, "loss", *words, loss=loss):
        FACES[face](loss)


def test_a_good_loss_is_executed():
    """So that "not executed" above means something."""
    loss = Loss()
    jax.block_until_ready(one_step(loss))
    jax.effects_barrier()
    assert loss.executed > 0


def test_has_aux_without_an_aux():
    loss = Loss()
    tx = lsam.layerwise_sam(1, 0.1)
    with refused(TypeError, "has_aux=True", "(loss, aux)", loss=loss):
        lsam.value_and_grad(loss, tx, has_aux=True)(parameters(), tx.init(parameters()))


PARAMETERS = [
    (lambda: {"w": jnp.ones((2, 2), jnp.complex64)}, TypeError, ["'w'", "complex64"]),
    (lambda: {"w": jnp.ones((2, 2)), "n": jnp.ones(2, jnp.int32)}, TypeError, ["'n'", "int32"]),
    (lambda: {"w": jnp.ones((2, 2)), "on": np.ones(2, bool)}, TypeError, ["'on'", "bool"]),
    (lambda: {"w": jnp.ones((2, 2)), "key": jax.random.key(0)}, TypeError, ["'key'", "key"]),
    (lambda: {"w": jnp.ones((2, 2)), "name": "relu"}, TypeError, ["'name'", "str"]),
    (lambda: {"w": jnp.ones((2, 2)), "act": jnp.tanh}, TypeError, ["'act'"]),
    (lambda: {}, ValueError, ["layers", "empty"]),
    (lambda: {"b": jnp.ones(3)}, ValueError, ["layers", "kernel", "b"]),
]


@pytest.mark.parametrize(("make", "kind", "words"), PARAMETERS, ids=ids(PARAMETERS))
@pytest.mark.parametrize("at", ["init", "step", "names"])
def test_parameters_that_cannot_be_differentiated(make, kind, words, at):
    loss, tx = Loss(), lsam.layerwise_sam(1, 0.1)
    with refused(kind, *words, loss=loss):
        if at == "init":
            tx.init(make())
        elif at == "names":
            lsam.layer_names(make())
        else:
            lsam.value_and_grad(loss, tx)(make(), tx.init(parameters()))


def test_state_of_other_parameters():
    loss, tx = Loss(), lsam.layerwise_sam(1, 0.1)
    other = tx.init({"w": jnp.ones((2, 2))})
    with refused(ValueError, "state", "1 layer", "2 (body/w, head/w)", "init", loss=loss):
        one_step(loss, state=other)
    with refused(ValueError, "state", "1 layer", "2 (body/w, head/w)", "init", loss=loss):
        tx.update(parameters(), other, parameters(), value_fn=loss)
    with refused(ValueError, "state", "1 layer", "2 (body/w, head/w)", "init"):
        tx.update(parameters(), other, parameters(), grad_fn=lambda p: p)


REMEMBERING = {
    "momentum_sam": (lsam.momentum_sam, "memory/ascent/head/w"),
    "vasso": (lsam.vasso, "memory/perturbation/head/w"),
    "sparse_sam": (lsam.sparse_sam, "memory/perturbation/moves/head/w"),
    "look_sam": (lsam.look_sam, "memory/combination/across/head/w"),
}


@pytest.mark.core
@pytest.mark.parametrize("name", REMEMBERING)
def test_state_that_remembers_arrays_of_other_shapes(name):
    """Of as many layers, and so of the same structure; those that would broadcast too."""
    make, where = REMEMBERING[name]
    loss, tx, params = Loss(), make(), parameters()
    for shape in ((5, 3), (1, 2)):
        other = {**params, "head": {"w": jnp.ones(shape)}}
        words = ("state", where, str(shape), "(3, 2)", "tx.init(params)")
        with refused(ValueError, *words, loss=loss):
            lsam.value_and_grad(loss, tx)(params, tx.init(other))
        with refused(ValueError, *words):
            tx.update(params, tx.init(other), params, grad_fn=lambda p: p)


def test_states_of_seeds_side_by_side_are_taken():
    params = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), parameters())
    for name in REMEMBERING:
        tx = REMEMBERING[name][0]()
        step = jax.vmap(lsam.value_and_grad(lambda p: jnp.sum(jnp.sin(p["head"]["w"])), tx))
        assert step(params, jax.vmap(tx.init)(params))[2].count.tolist() == [1, 1]


@pytest.mark.parametrize("state", [(), optax.EmptyState(), 3])
def test_state_of_another_transformation(state):
    loss = Loss()
    with refused(TypeError, "state", type(state).__name__, "init", loss=loss):
        one_step(loss, state=state)


def test_dictionary_that_is_no_state():
    loss = Loss()
    with refused(ValueError, "state", "dictionary", "nothing at 'count'", "init", loss=loss):
        one_step(loss, state={})


def test_state_of_a_chain():
    loss = Loss()
    chain = optax.chain(lsam.layerwise_sam(1, 0.1), optax.sgd(0.1))
    with refused(TypeError, "state", "tuple", "chain", loss=loss):
        one_step(loss, state=chain.init(parameters()))


def test_neither_value_fn_nor_grad_fn():
    """The usual way to fall into it is Flax's TrainState: the message says so."""
    tx = lsam.layerwise_sam(1, 0.1)
    for optimizer in (tx, optax.chain(tx, optax.sgd(0.1))):
        with refused(ValueError, "value_fn", "grad_fn", "update(", "TrainState"):
            optimizer.update(parameters(), optimizer.init(parameters()), parameters(), value=1.0)


def test_a_budget_without_a_loss():
    tx = lsam.layerwise_sam(1, 0.1, selection=lsam.budget(0.5))
    with refused(ValueError, "budget", "value_fn", "grad_fn"):
        tx.update(parameters(), tx.init(parameters()), parameters(), grad_fn=lambda p: p)


@pytest.mark.parametrize("argument", ["value_fn", "grad_fn"])
def test_a_value_instead_of_a_function(argument):
    with refused(TypeError, argument, "float"):
        update(**{argument: 1.5})


@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
def test_params_none(face):
    loss, tx = Loss(), lsam.layerwise_sam(1, 0.1)
    with refused(ValueError, "params", "None", "update(", loss=loss):
        tx.update(parameters(), tx.init(parameters()), **{face: loss})
    with refused(ValueError, "params", "None"):
        tx.init(None)


def test_gradients_of_another_structure():
    tx = lsam.layerwise_sam(1, 0.1)
    state = tx.init(parameters())
    with refused(ValueError, "updates", "params"):
        tx.update({"w": jnp.ones(2)}, state, parameters(), grad_fn=lambda p: p)
    with refused(ValueError, "grad_fn", "params"):
        tx.update(parameters(), state, parameters(), grad_fn=lambda p: p["body"])


@pytest.mark.parametrize("not_ours", [optax.sgd(0.1), None, "sam"])
def test_value_and_grad_of_something_else(not_ours):
    with refused(TypeError, "tx", type(not_ours).__name__, "layerwise_sam"):
        lsam.value_and_grad(Loss(), not_ours)


def test_value_and_grad_of_a_chain():
    chain = optax.chain(lsam.layerwise_sam(1, 0.1), optax.sgd(0.1))
    with refused(TypeError, "tx", "chain"):
        lsam.value_and_grad(Loss(), chain)


def test_value_and_grad_of_a_value():
    with refused(TypeError, "loss_fn", "float"):
        lsam.value_and_grad(1.5, lsam.layerwise_sam(1, 0.1))
