"""The same networks inside `jit` and `checkpoint`, and behind weight decay."""

import jax
import jax.numpy as jnp
import numpy as np

from zoo.common import CLASSES, Case, array, batches, cross_entropy, layer_norm
from zoo.dense import branches, shared


def jitted():
    """The whole loss is one jit equation, with another inside."""
    case = shared()
    return case._replace(loss=jax.jit(jax.jit(case.loss)))


def remat():
    """The whole loss is one checkpoint equation."""
    case = branches()
    return case._replace(loss=jax.checkpoint(case.loss))


def decay_first():
    """Weight decay before the network, all weights cast up front: every weight's first use is
    in tree order at the top, which says nothing about the network."""
    case = shared()

    def loss(p, batch):
        p = jax.tree.map(lambda w: jax.lax.reduce_precision(w, 11, 52), p)  # a cast, in float64
        decay = 1e-2 * sum(jnp.sum(w**2) for w in jax.tree.leaves(p) if w.ndim > 1)
        loss, aux = case.loss(p, batch)
        return loss + decay, {**aux, "decay": decay}

    return case._replace(loss=loss)


def remat_blocks():
    """Residual blocks, each a checkpoint, one of them with a policy."""
    rng = np.random.default_rng(3)
    params = {
        "in": array(rng, 5, 6),
        "blocks": [
            {"up": array(rng, 6, 8), "down": array(rng, 8, 6), "scale": array(rng, 6)}
            for _ in range(2)
        ],
        "head": array(rng, 6, CLASSES),
    }

    def block(p, x):
        return x + jnp.tanh(layer_norm(x, p["scale"]) @ p["up"]) @ p["down"]

    def loss(p, batch):
        x = batch["x"] @ p["in"]
        x = jax.checkpoint(block)(p["blocks"][0], x)
        policy = jax.checkpoint_policies.dots_saveable
        x = jax.checkpoint(block, policy=policy)(p["blocks"][1], x)
        return cross_entropy(x @ p["head"], batch["y"])

    blocks = [f"blocks/{i}/{w}" for i in range(2) for w in ("up", "down")]
    return Case(params, loss, batches(rng, 5), ("in", *blocks, "head"))
