"""What a step on a scanned transformer costs; prints a table, writes costs.json.

`python results/scanned/measure.py results/scanned/costs.json`. 12 pre-norm blocks (width 192, 3
heads, 64 tokens, batch 8) under one `jax.lax.scan`, with and without remat. Each row is timed in
turn with `jax.value_and_grad` of the same loss; median and quartiles of the rounds' ratios.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsam_jax as lsam
from lsam_jax.experiments import environment
from lsam_jax.experiments.bench import timing

BLOCKS, WIDTH, HEADS, TOKENS, BATCH, WORDS = 12, 192, 3, 64, 8, 256
ROUNDS = 15
LAYERS = lsam.stacked("blocks", layers="slice")
LAST_TWO = ("blocks/10", "blocks/11")


def weight(rng, *shape):
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)


def parameters(rng):
    shapes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH)}
    shapes |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    blocks = {name: weight(rng, BLOCKS, *shape) for name, shape in shapes.items()}
    return {
        "embedding": weight(rng, WORDS, WIDTH),
        "blocks": blocks,
        "head": weight(rng, WIDTH, WORDS),
    }


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def block(x, p):
    q, k, v = jnp.split((norm(x) @ p["qkv"]).reshape(BATCH, TOKENS, HEADS, -1), 3, -1)
    attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + attended.reshape(x.shape) @ p["out"]
    return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"], None


def loss_with(body):
    def loss_fn(params, words, labels):
        x, _ = jax.lax.scan(body, params["embedding"][words], params["blocks"])
        logits = norm(x) @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss_fn


def methods():
    """Each with the layers that its first step is made to select, where it selects by norms."""
    fixed = lsam.layerwise_sam(None, 0.1, layers=LAYERS, selection=list(LAST_TWO))
    chosen = lsam.layerwise_sam(2, 0.1, layers=LAYERS, cuts=["blocks/10"])
    return {
        "last two blocks, always": (fixed, ()),
        "last two blocks, by norm; two cuts": (chosen, LAST_TWO),
        "last two blocks, by norm; automatic cuts": (
            lsam.layerwise_sam(2, 0.1, layers=LAYERS),
            LAST_TWO,
        ),
        "first and last block, by norm; two cuts": (chosen, ("blocks/0", "blocks/11")),
        "SAM": (lsam.sam(0.1, layers=LAYERS), ()),
    }


def selecting(tx, params, names):
    state = tx.init(params)
    known = lsam.layer_names(params, LAYERS)
    return state._replace(norms=jnp.asarray([float(name in names) for name in known]))


def measure(body):
    rng = np.random.default_rng(0)
    params, loss_fn = parameters(rng), loss_with(body)
    words, labels = (jnp.asarray(rng.integers(0, WORDS, (BATCH, TOKENS))) for _ in range(2))
    plain = jax.jit(jax.value_and_grad(loss_fn))
    functions = {"plain gradient": lambda: plain(params, words, labels)}
    for name, (tx, names) in methods().items():
        step, state = jax.jit(lsam.value_and_grad(loss_fn, tx)), selecting(tx, params, names)
        found = step(params, state, words, labels)[2].selected
        if names:
            layers = lsam.layer_names(params, LAYERS)
            assert {n for n, s in zip(layers, found) if s} == set(names)
        functions[name] = lambda step=step, state=state: step(params, state, words, labels)
    seconds = timing.interleaved(functions, ROUNDS, warmup=2)
    return {n: cost._asdict() for n, cost in timing.costs(tuple(functions), seconds).items()}


def main():
    results = {"environment": environment.describe()}
    for name, body in {"scan": block, "remat": jax.checkpoint(block)}.items():
        results[name] = measure(body)
        for row, cost in results[name].items():
            print(f"{name:6} {row:42} {cost['ratio']:.2f} ({cost['low']:.2f}-{cost['high']:.2f})")
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
