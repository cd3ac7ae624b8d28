"""Three layers with something in their middle, and one step on them."""

import jax
import jax.numpy as jnp
import numpy as np
import textbook
from training import RHO, assert_same
from zoo.common import array, cross_entropy

import lsam_jax as lsam

WIDTH = 6


def three_layers(middle):
    """in, a middle with a weight, head; the key is a typed one."""
    rng = np.random.default_rng(0)
    params = {"m_in": array(rng, 5, WIDTH), "z_mid": array(rng, WIDTH, WIDTH)}
    params["a_head"] = array(rng, WIDTH, 3)
    batch = {"x": jnp.asarray(rng.normal(size=(8, 5))), "y": jnp.asarray(rng.integers(0, 3, 8))}
    batch["key"] = jax.random.key(1)

    def loss(p, batch):
        x = jnp.tanh(batch["x"] @ p["m_in"])
        x = middle(x, p["z_mid"], batch["key"])
        return cross_entropy(x @ p["a_head"], batch["y"])

    return params, batch, loss


def state_selecting(tx, params, *names):
    """A state from which the step selects these layers."""
    every = lsam.layer_names(params)
    return tx.init(params)._replace(
        norms=jnp.asarray([float(n in names) for n in every], jnp.float32)
    )


def assert_one_step(params, batch, loss, *choices, run=jax.jit, want_loss=None, alpha=0.8):
    """The step that perturbs a choice is the textbook's (on `want_loss`, by default the same)."""
    # k is the step count: one compilation for all choices
    tx = lsam.layerwise_sam(lambda count: count, RHO, alpha)
    step = run(lsam.value_and_grad(loss, tx, has_aux=True))
    gradient = jax.jit(jax.value_and_grad(want_loss or loss, has_aux=True))
    for chosen in choices:
        count = jnp.asarray(len(chosen), jnp.int32)
        state = state_selecting(tx, params, *chosen)._replace(count=count)
        (value, aux), grads, state = step(params, state, batch)
        want = textbook.step(gradient, params, batch, set(chosen), RHO, alpha)
        assert_same((value, aux), (want.loss, want.aux))
        assert_same(grads, textbook.unnamed(want.direction, grads))
        assert {n for n, s in zip(lsam.layer_names(params), state.selected) if s} == set(chosen)


CHOICES = [("a_head",), ("z_mid", "a_head"), ("m_in",)]
