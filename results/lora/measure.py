"""What a step costs when little trains on a frozen backbone; prints a table, writes costs.json.

`python results/lora/measure.py results/lora/costs.json`. A transformer of 12 blocks (width 128, 4
heads, 32 tokens, batch 16); LoRA of rank 4 on queries and values, and a head. Each row's plain step
is `jax.value_and_grad` of the same loss by the same parameters. Counted: floating-point operations
that XLA counts; for a choice at run time, `inspect` at the layers that 30 steps chose, on average.
Timed: plain and ours in turn, the ratio in each of the rounds; median and quartiles, of wall time
and of the processor time of the process.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsam_jax as lsam

BLOCKS, WIDTH, HEADS, TOKENS, BATCH, RANK, CLASSES = 12, 128, 4, 32, 16, 4, 10
ROUNDS, STEPS, RHO = 31, 30, 0.05


def weight(key, *shape):
    return jax.random.normal(key, shape) / np.sqrt(shape[0])


def backbone(key):
    def block(key):
        keys = jax.random.split(key, 6)
        square = {n: weight(k, WIDTH, WIDTH) for n, k in zip("qkvo", keys)}
        return square | {
            "up": weight(keys[4], WIDTH, 4 * WIDTH),
            "down": weight(keys[5], 4 * WIDTH, WIDTH),
        }

    return [block(key) for key in jax.random.split(key, BLOCKS)]


def trainable(key, adapted):
    """Adapters of the blocks `adapted`, and the head."""

    def pair(key):
        return {"a": weight(key, WIDTH, RANK), "b": jnp.zeros((RANK, WIDTH))}

    params = {"head": weight(key, WIDTH, CLASSES)}
    for i in adapted:
        kq, kv = jax.random.split(jax.random.fold_in(key, i))
        params[f"block{i:02}"] = {"q": pair(kq), "v": pair(kv)}
    return params


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def loss_fn(params, frozen, x, y):
    for i, w in enumerate(frozen):
        lora = params.get(f"block{i:02}", {})

        def project(name, h, w=w, lora=lora):
            out = h @ w[name]
            return out + h @ lora[name]["a"] @ lora[name]["b"] if name in lora else out

        h = norm(x)
        q, k, v = (project(n, h).reshape(*h.shape[:2], HEADS, -1) for n in "qkv")
        x = x + jax.nn.dot_product_attention(q, k, v).reshape(h.shape) @ w["o"]
        x = x + jax.nn.gelu(norm(x) @ w["up"]) @ w["down"]
    logits = norm(x).mean(1) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def rows():
    every, last = range(BLOCKS), [BLOCKS - 1]
    return {
        "head only, all perturbed": ([], lsam.sam(RHO)),
        "LoRA in the last block, all perturbed": (last, lsam.sam(RHO)),
        "LoRA in every block, all perturbed": (every, lsam.sam(RHO)),
        "LoRA in every block, k=2": (every, lsam.layerwise_sam(2, RHO)),
        "LoRA in every block, k=2, budget(0.05)": (
            every,
            lsam.layerwise_sam(2, RHO, selection=lsam.budget(0.05)),
        ),
        "LoRA in every block, k=2, budget(0.2)": (
            every,
            lsam.layerwise_sam(2, RHO, selection=lsam.budget(0.2)),
        ),
        "LoRA in every block, momentum_sam": (every, lsam.momentum_sam(RHO)),
    }


def flops(fun, *args):
    return jax.jit(fun).lower(*args).compile().cost_analysis()["flops"]


def measure(adapted, tx):
    kf, kp, kx, ky = jax.random.split(jax.random.key(0), 4)
    frozen, params = backbone(kf), trainable(kp, adapted)
    x = jax.random.normal(kx, (BATCH, TOKENS, WIDTH))
    y = jax.random.randint(ky, (BATCH,), 0, CLASSES)
    value_and_grad = jax.jit(lsam.value_and_grad(loss_fn, tx))
    plain = jax.jit(jax.value_and_grad(loss_fn))
    counted = flops(value_and_grad, params, tx.init(params), frozen, x, y) / flops(
        plain, params, frozen, x, y
    )

    optimizer, state, selections = optax.adam(1e-3), tx.init(params), []
    base = optimizer.init(params)
    for _ in range(STEPS):
        _, grads, state = value_and_grad(params, state, frozen, x, y)
        updates, base = optimizer.update(grads, base, params)
        params = optax.apply_updates(params, updates)
        selections.append(np.asarray(state.selected))
    selector = tx.recipe.selector
    if selector.score is not None and not selector.one_cut:  # a switch, of which XLA counts one
        names = np.asarray(lsam.layer_names(params))
        found = lsam.inspect(loss_fn, params, frozen, x, y, k=2)
        counted = float(np.mean([found.cost(list(names[chosen])) for chosen in selections]))

    def timed(fun, *args):
        before, processor = time.perf_counter(), time.process_time()
        out = jax.block_until_ready(fun(*args))
        return out, np.array([time.perf_counter() - before, time.process_time() - processor])

    jax.block_until_ready(plain(params, frozen, x, y))
    rounds = []
    for _ in range(ROUNDS):
        (_, _, state), ours = timed(value_and_grad, params, state, frozen, x, y)
        rounds.append(ours / timed(plain, params, frozen, x, y)[1])
    wall, processor = np.percentile(rounds, [50, 25, 75], axis=0).T.round(3).tolist()
    return {"counted": round(counted, 3), "wall": wall, "processor": processor}


def main():
    results = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "rows": {}}
    for name, (adapted, tx) in rows().items():
        results["rows"][name] = found = measure(adapted, tx)
        print(f"{name:42} {found}", flush=True)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
