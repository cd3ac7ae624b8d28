"""Where among Optax's wrappers a SAM method cannot stand: the error says what to do instead.

And what it says to do works.
"""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import parameters, refused

import lsam_jax as lsam

pytestmark = pytest.mark.core
RHO, LR = 0.1, 0.5


def loss(params):
    """Half the squared norm, from the parameters by name: SAM's direction is (1 + rho) w."""
    named = (params["body"]["w"], params["body"]["b"], params["head"]["w"])
    return sum(jnp.sum(w**2) for w in named) / 2


def one_update(tx):
    params = parameters()
    return tx.update(params, tx.init(params), params, value_fn=loss)


def sam():
    return lsam.layerwise_sam(None, RHO, selection="all", layers="array")


def only_the_head(params):
    return {"body": jax.tree.map(lambda _: False, params["body"]), "head": {"w": True}}


def group(params):
    return jax.tree.map(lambda chosen: "sam" if chosen else "frozen", only_the_head(params))


HIDING = {
    "masked": lambda: optax.masked(sam(), only_the_head),
    "partition": lambda: optax.partition(
        {"sam": optax.chain(sam(), optax.sgd(LR)), "frozen": optax.set_to_zero()}, group
    ),
}


@pytest.mark.parametrize("wrapper", HIDING)
@pytest.mark.parametrize("at", ["init", "update"])
def test_parameters_are_hidden(wrapper, at):
    words = ("MaskedNode", "'body/b'", "optax.masked", "optax.partition", "in front")
    with refused(ValueError, *words, "layers=", "selection=", "close over"):
        if at == "init":
            HIDING[wrapper]().init(parameters())
        else:
            hidden = {**parameters(), "body": {"b": optax.MaskedNode(), "w": jnp.ones((2, 3))}}
            sam().update(hidden, sam().init(parameters()), hidden, value_fn=loss)


def test_a_partition_stands_behind():
    """Only the head is perturbed, and only the head trains."""
    tx = lsam.layerwise_sam(None, RHO, selection=["head/w"])
    groups = {"sam": optax.sgd(LR), "frozen": optax.set_to_zero()}
    updates, _ = one_update(optax.chain(tx, optax.partition(groups, group)))
    np.testing.assert_allclose(updates["head"]["w"], -LR * (1 + RHO), rtol=1e-6)
    assert not any(np.any(w) for w in jax.tree.leaves(updates["body"]))


@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
def test_parameters_are_flat(face):
    """One vector may be what the user trains: so the error is the loss's own, with a note."""
    tx, fun = optax.flatten(sam()), {"value_fn": loss, "grad_fn": jax.grad(loss)}[face]
    with pytest.raises(TypeError) as caught:
        tx.update(parameters(), tx.init(parameters()), parameters(), **{face: fun})
    shown = "".join(traceback.format_exception(caught.value))
    for words in (
        "one vector of 15 numbers",
        "optax.flatten",
        "chain(layerwise_sam(...), optax.fl",
    ):
        assert words in shown
    with pytest.raises(ValueError, match="no parameter in a layer") as caught:
        optax.flatten(lsam.layerwise_sam(1, RHO)).init(parameters())
    assert "optax.flatten" in "".join(caught.value.__notes__)


def test_other_errors_have_no_such_note():
    with pytest.raises(ValueError) as caught:
        lsam.layerwise_sam(100, RHO).init(parameters())
    assert not hasattr(caught.value, "__notes__")


def test_flatten_stands_behind():
    updates, _ = one_update(optax.chain(sam(), optax.flatten(optax.sgd(LR))))
    for update in jax.tree.leaves(updates):
        np.testing.assert_allclose(update, -LR * (1 + RHO), rtol=1e-6)


DROPPING = {
    "lookahead": lambda: optax.lookahead(optax.chain(sam(), optax.sgd(LR)), 5, 0.5),
    "MultiSteps": lambda: optax.chain(
        optax.MultiSteps(optax.chain(sam(), optax.sgd(LR)), 2).gradient_transformation()
    ),
    "nothing": sam,
}


@pytest.mark.parametrize("wrapper", DROPPING)
def test_the_loss_is_dropped(wrapper):
    tx, params = DROPPING[wrapper](), parameters()
    of_tx = optax.LookaheadParams.init_synced(params) if wrapper == "lookahead" else params
    extra = {"value_fn": loss} if wrapper == "MultiSteps" else {}
    words = ("value_fn", "grad_fn", "integrations.linen.TrainState", "optax.lookahead")
    with refused(ValueError, *words, "lsam_jax.value_and_grad", "MultiSteps", "inside the loss"):
        tx.update(params, tx.init(of_tx), of_tx, **extra)


def test_parameters_are_a_pair():
    pair = optax.LookaheadParams.init_synced(parameters())
    with refused(ValueError, "LookaheadParams", "lsam_jax.value_and_grad at params.fast"):
        optax.chain(sam(), optax.lookahead(optax.sgd(LR), 5, 0.5)).init(pair)


def test_lookahead_takes_the_direction():
    pair, tx = optax.LookaheadParams.init_synced(parameters()), sam()
    lookahead = optax.lookahead(optax.sgd(LR), 5, 0.5)
    _, grads, _ = lsam.value_and_grad(loss, tx)(pair.fast, tx.init(pair.fast))
    updates, _ = lookahead.update(grads, lookahead.init(pair), pair)
    for update in jax.tree.leaves(updates.fast):
        np.testing.assert_allclose(update, -LR * (1 + RHO), rtol=1e-6)


def test_multi_steps_stands_behind():
    """Two steps on w = 1: both directions are 1 + rho, and their mean is descended once."""
    behind = optax.MultiSteps(optax.sgd(LR), 2).gradient_transformation()
    tx, params = optax.chain(sam(), behind), parameters()
    state = tx.init(params)
    for expected in (0.0, -LR * (1 + RHO)):
        updates, state = tx.update(params, state, params, value_fn=loss)
        for update in jax.tree.leaves(updates):
            np.testing.assert_allclose(update, expected, rtol=1e-6)
