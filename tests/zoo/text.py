"""A transformer with LayerNorm and one embedding for input and output."""

import jax
import jax.numpy as jnp
import numpy as np

from zoo.common import STEPS, Case, array, cross_entropy, layer_norm

WORDS, WIDTH, HEADS, LENGTH = 11, 8, 2, 6


def attention(p, x):
    q, k, v = jnp.split((x @ p["qkv"]).reshape(*x.shape[:-1], HEADS, -1), 3, axis=-1)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(WIDTH // HEADS)
    scores = jnp.where(np.tri(LENGTH, dtype=bool), scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return mixed.reshape(x.shape) @ p["out"]


def transformer():
    rng = np.random.default_rng(6)

    def block():
        attention = {"qkv": array(rng, WIDTH, 3 * WIDTH), "out": array(rng, WIDTH, WIDTH)}
        mlp = {"up": array(rng, WIDTH, 2 * WIDTH), "down": array(rng, 2 * WIDTH, WIDTH)}
        mlp["bias"] = 0.1 * array(rng, 2 * WIDTH)
        return {"attention": attention, "mlp": mlp, "scale": [array(rng, WIDTH), array(rng, WIDTH)]}

    params = {
        "blocks": [block(), block()],
        "embedding": array(rng, WORDS, WIDTH),
        "position": array(rng, LENGTH, WIDTH),
        "scale": array(rng, WIDTH),
    }

    def loss(p, batch):
        x = p["embedding"][batch["words"]] + p["position"]
        for b in p["blocks"]:
            x = x + attention(b["attention"], layer_norm(x, b["scale"][0]))
            y = layer_norm(x, b["scale"][1]) @ b["mlp"]["up"] + b["mlp"]["bias"]
            x = x + jax.nn.gelu(y) @ b["mlp"]["down"]
        logits = layer_norm(x, p["scale"]) @ p["embedding"].T
        return cross_entropy(logits, batch["next"])

    words = rng.integers(0, WORDS, (STEPS, 2, LENGTH + 1))
    data = [{"words": jnp.asarray(w[:, :-1]), "next": jnp.asarray(w[:, 1:])} for w in words]
    parts = ("attention/qkv", "attention/out", "mlp/up", "mlp/down")
    order = ("embedding", "position", *(f"blocks/{i}/{part}" for i in range(2) for part in parts))
    return Case(params, loss, data, order)
