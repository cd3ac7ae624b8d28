"""Dense networks: branches, a shared weight, an unused one, weights made of weights."""

import jax
import jax.numpy as jnp
import numpy as np

from zoo.common import CLASSES, Case, array, batches, cross_entropy, layer_norm


def branches():
    """Two branches of different depth that join; the deeper one is written last."""
    rng = np.random.default_rng(0)
    params = {
        "stem": {"w": array(rng, 5, 6), "b": array(rng, 6)},
        "left": {"w": array(rng, 6, 4)},
        "deep": [{"w": array(rng, 6, 6), "b": array(rng, 6)}, {"w": array(rng, 6, 4)}],
        "join": {"w": array(rng, 8, CLASSES), "b": array(rng, CLASSES)},
    }

    def loss(p, batch):
        x = jnp.tanh(batch["x"] @ p["stem"]["w"] + p["stem"]["b"])
        left = jnp.tanh(x @ p["left"]["w"])
        deep = jnp.tanh(x @ p["deep"][0]["w"] + p["deep"][0]["b"])
        deep = deep @ p["deep"][1]["w"]
        joined = jnp.concatenate([left, deep], -1)
        return cross_entropy(joined @ p["join"]["w"] + p["join"]["b"], batch["y"])

    order = ("stem/w", "left/w", "deep/0/w", "deep/1/w", "join/w")
    return Case(params, loss, batches(rng, 5), order)


def shared():
    """One weight at two places, before and after others."""
    rng = np.random.default_rng(1)
    params = {
        "b_first": array(rng, 6, 6),
        "d_twice": array(rng, 6, 6),
        "a_between": array(rng, 6, 6),
        "scale": array(rng, 6),
        "c_head": array(rng, 6, CLASSES),
    }

    def loss(p, batch):
        x = jnp.tanh(batch["x"] @ p["b_first"])
        x = jnp.tanh(x @ p["d_twice"])
        x = layer_norm(x @ p["a_between"], p["scale"])
        x = jnp.sin(x @ p["d_twice"])
        return cross_entropy(x @ p["c_head"], batch["y"])

    order = ("b_first", "d_twice", "a_between", "c_head")
    return Case(params, loss, batches(rng, 6), order)


def unused():
    """A weight that the loss does not use (no layer is farther from the output), None leaves."""
    rng = np.random.default_rng(2)
    params = {
        "z_in": {"w": array(rng, 5, 6), "b": None},
        "mid": [None, array(rng, 6, 6), None],
        "never": array(rng, 4, 4),
        "never_bias": array(rng, 4),
        "a_head": {"w": array(rng, 6, CLASSES), "b": array(rng, CLASSES)},
        "nothing": None,
    }

    def loss(p, batch):
        x = jax.nn.gelu(batch["x"] @ p["z_in"]["w"])
        x = jax.nn.gelu(x @ p["mid"][1])
        return cross_entropy(x @ p["a_head"]["w"] + p["a_head"]["b"], batch["y"])

    return Case(params, loss, batches(rng, 5), ("never", "z_in/w", "mid/1", "a_head/w"))


def entangled():
    """Weights made of weights before they meet an input: low-rank updates, standardisation."""
    rng = np.random.default_rng(9)
    params = {
        "z_in": array(rng, 5, 6),
        "l_down": array(rng, 6, 2),
        "m_up": array(rng, 2, 6),
        "b_full": array(rng, 6, 6),
        "a_head": array(rng, 6, CLASSES),
    }

    def loss(p, batch):
        standard = (p["z_in"] - p["z_in"].mean(0)) / p["z_in"].std(0)
        x = jnp.tanh(batch["x"] @ standard)
        x = jnp.tanh(x @ (p["l_down"] @ p["m_up"] + p["b_full"]))
        head = p["a_head"] / jnp.linalg.norm(p["b_full"])
        loss, aux = cross_entropy(x @ head, batch["y"])
        return loss, {**aux, "head": head, "input": p["z_in"], "constant": 1.0, "none": None}

    order = ("z_in", "l_down", "m_up", "b_full", "a_head")
    return Case(params, loss, batches(rng, 5), order)
