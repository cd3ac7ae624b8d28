"""Networks with a `scan` inside: over time, and over stacked blocks."""

import jax
import jax.numpy as jnp
import numpy as np

from zoo.common import CLASSES, Case, array, batches, cross_entropy


def recurrent():
    """A scan over time with the weights as constants of the loop, then dense layers."""
    rng = np.random.default_rng(4)
    params = {
        "embed": array(rng, 3, 5),
        "cell": {"x": array(rng, 5, 6), "h": array(rng, 6, 6), "b": array(rng, 6)},
        "dense": array(rng, 6, 6),
        "a_head": array(rng, 6, CLASSES),
    }

    def loss(p, batch):
        x = batch["x"] @ p["embed"]

        def cell(h, x):
            return jnp.tanh(x @ p["cell"]["x"] + h @ p["cell"]["h"] + p["cell"]["b"]), None

        h, _ = jax.lax.scan(cell, jnp.zeros((4, 6), x.dtype), jnp.swapaxes(x, 0, 1))
        return cross_entropy(jnp.tanh(h @ p["dense"]) @ p["a_head"], batch["y"])

    order = ("embed", "cell/x", "cell/h", "dense", "a_head")
    return Case(params, loss, batches(rng, 4, 3), order)


def stacked():
    """A scan over checkpointed blocks: their weights are one array of rank 3."""
    rng = np.random.default_rng(5)
    params = {
        "in": array(rng, 5, 6),
        "blocks": {"w": array(rng, 3, 6, 6), "b": 0.1 * array(rng, 3, 6)},
        "a_head": array(rng, 6, CLASSES),
    }

    def loss(p, batch):
        x = batch["x"] @ p["in"]

        @jax.checkpoint
        def block(x, p):
            return x + jnp.tanh(x @ p["w"] + p["b"]), None

        x, _ = jax.lax.scan(block, x, p["blocks"])
        return cross_entropy(x @ p["a_head"], batch["y"])

    order = ("in", "blocks/w", "blocks/b", "a_head")  # stacked biases are of rank 2
    return Case(params, loss, batches(rng, 5), order)
