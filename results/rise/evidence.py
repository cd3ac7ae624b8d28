"""One setting for every method: the radius that sets itself, on digits with noisy labels.

Trains with this library, prints and stores one JSON line a run; runs that are stored are skipped:

    python results/rise/evidence.py REGIME ...     of REGIMES below

A fixed radius is chosen on 240 held-out training images with clean labels and other seeds ("tune"
lines); the 597 test images are seen by the final runs alone. One core is used. The
runs of ResNet-8 with 40 % noise were made before `convolve`, which changes rounding, and time.
"""

import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
import flax.linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import lsam_jax as lsam
from lsam_jax.experiments.models.small_images import convolve

HERE, BATCH = Path(__file__).parent, 64
RADII = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
TUNING, SEEDS = (100, 101), (0, 1, 2, 3, 4)


class ResNet8(nn.Module):
    """Three blocks, width 16, with BatchNorm."""

    @nn.compact
    def __call__(self, x, train):
        def norm(h):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(h)

        def conv(width, stride, size=3):
            shape, strides = (size, size), (stride, stride)
            return nn.Conv(width, shape, strides, use_bias=False, conv_general_dilated=convolve)

        x = nn.relu(norm(conv(16, 1)(x)))
        for i in range(3):
            width, stride = 16 * 2**i, 1 if i == 0 else 2
            y = norm(conv(width, 1)(nn.relu(norm(conv(width, stride)(x)))))
            x = x if x.shape == y.shape else norm(conv(width, stride, 1)(x))
            x = nn.relu(x + y)
        return nn.Dense(10)(x.mean((1, 2)))


class MLP(nn.Module):
    """Three hidden layers of 256."""

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        for _ in range(3):
            x = nn.relu(nn.Dense(256)(x))
        return nn.Dense(10)(x)


class ViT(nn.Module):
    """Three blocks of width 64 on patches of 2x2."""

    @nn.compact
    def __call__(self, x, train):
        b, s = len(x), x.shape[1] // 2
        x = x.reshape(b, s, 2, s, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(b, s * s, -1)
        place = self.param("pos", nn.initializers.normal(0.02), (1, s * s, 64))
        x = nn.Dense(64)(x) + place
        for _ in range(3):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(h, h)
            x = x + nn.Dense(64)(nn.gelu(nn.Dense(256)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


def methods(k):
    """By name: from a radius to the method, and the part of the batch that it climbs."""
    return {
        "SAM": (lsam.sam, None),
        "SAM, 1/8": (lsam.sam, 1 / 8),
        "layer-wise": (lambda rho: lsam.layerwise_sam(k, rho, normalize=True), None),
        "layer-wise, 1/8": (lambda rho: lsam.layerwise_sam(k, rho, normalize=True), 1 / 8),
        "stale": (lambda rho: lsam.with_parts(lsam.sam(rho), ascent=lsam.stale()), None),
        "stale without rest": (
            lambda rho: lsam.with_parts(lsam.sam(rho), ascent=lsam.stale(rest=1)),
            None,
        ),
    }


CAP = 0.2  # what `rise` takes if no other is named
SWEPT = (0.1, 0.2, 0.3, 0.5, 0.6, (0.4, 0.1), (0.4, 0.4), (0.4, 1.0))

REGIMES = {  # network, optimizer, noise, images, shares, seeds, whether a fixed radius is tuned
    "resnet": (ResNet8(), "sgd", 0.4, 1200, (0.4, 0.35, 0.3), SEEDS, True),
    "mlp": (MLP(), "sgd", 0.4, 1200, (0.4, 0.35, 0.3), SEEDS, True),
    "vit": (ViT(), "adamw", 0.4, 1200, (0.4, 0.3, 0.2, 0.1), SEEDS, True),
    "resnet-60": (ResNet8(), "sgd", 0.6, 1200, (0.1, 0.2, 0.3, 0.4), SEEDS[:2], False),
    "mlp-60": (MLP(), "sgd", 0.6, 1200, (0.1, 0.2, 0.3, 0.4), SEEDS[:3], False),
    "resnet-clean": (ResNet8(), "sgd", 0.0, 200, (0.1, 0.4), SEEDS, False),
    "mlp-sweep": (MLP(), "sgd", 0.4, 1200, SWEPT, SEEDS[:3], False),
    "resnet-sweep": (ResNet8(), "sgd", 0.4, 1200, SWEPT, SEEDS[:2], False),
    "vit-90": (ViT(), "adamw", 0.4, 1200, (0.35,), SEEDS, True),
    "mlp-90": (MLP(), "sgd", 0.4, 1200, (0.35,), SEEDS, True),
    "resnet-90": (ResNet8(), "sgd", 0.4, 1200, (0.35,), SEEDS, True),
}
EPOCHS = {name: 90 if name.endswith("-90") else 30 for name in REGIMES}

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.images))
images, labels = (digits.images / 16.0).astype(np.float32)[order, ..., None], digits.target[order]


def run(net, optimizer, noise, count, epochs, tx, part, seed, held_out):
    x, y = images[: 960 if held_out else count], labels[: 960 if held_out else count].copy()
    test = slice(960, 1200) if held_out else slice(1200, None)
    rng = np.random.default_rng(seed)
    flipped = rng.random(len(y)) < noise
    y[flipped] = rng.integers(0, 10, flipped.sum())
    variables = net.init(jax.random.key(seed), x[:1], False)
    params, stats = variables["params"], variables.get("batch_stats", {})
    steps = len(x) // BATCH
    if optimizer == "adamw":
        base = optax.adamw(optax.cosine_decay_schedule(1e-3, steps * epochs), weight_decay=5e-4)
    else:
        rate = optax.cosine_decay_schedule(0.1, steps * epochs)
        base = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9))

    def loss(params, stats, x, y):
        variables = {"params": params, **({"batch_stats": stats} if stats else {})}
        logits, new = net.apply(variables, x, True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), new.get("batch_stats", {})

    value_and_grad = lsam.value_and_grad(
        loss, tx, has_aux=True, ascent_batch=part, batch_argnums=(2, 3)
    )

    @jax.jit
    def step(params, stats, sam_state, state, x, y):
        (_, stats), grads, sam_state = value_and_grad(params, sam_state, stats, x, y)
        updates, state = base.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, sam_state, state

    sam_state, state, seen = tx.init(params), base.init(params), []
    for _ in range(epochs):
        shuffled = rng.permutation(len(x))
        for i in range(steps):
            b = shuffled[i * BATCH : (i + 1) * BATCH]
            params, stats, sam_state, state = step(params, stats, sam_state, state, x[b], y[b])
            seen.append((sam_state.rho, sam_state.rise))
    trained = {"params": params, **({"batch_stats": stats} if stats else {})}
    right = jax.jit(lambda x: net.apply(trained, x, False).argmax(1))(images[test]) == labels[test]
    quarters = [np.mean(q, 0).tolist() for q in np.array_split(np.array(seen, float), 4)]
    return {
        "accuracy": round(100 * float(right.mean()), 2),
        "rho": [round(q[0], 3) for q in quarters],
        "rise": [round(q[1], 3) for q in quarters],
    }


class Stored:
    """The runs of a regime, in a file; those that are there are not made again."""

    def __init__(self, name, regime):
        self.name, self.file = name, HERE / f"{name}.jsonl"
        self.setting = (*REGIMES[regime][:4], EPOCHS[regime])
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def run(self, method, tx, part, seed, held_out=False):
        for row in self.rows:
            if row["method"] == method and row["seed"] == seed:
                return row["accuracy"]
        row = {"method": method, "seed": seed, **run(*self.setting, tx, part, seed, held_out)}
        self.rows.append(row)
        with self.file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(self.name, json.dumps(row), flush=True)
        return row["accuracy"]


def best_radius(stored):
    def mean(rho):
        name, tx = f"tune SAM, rho {rho}", lsam.sam(rho)
        return np.mean([stored.run(name, tx, None, seed, True) for seed in TUNING])

    return max(RADII, key=mean)


def main(names):
    for name in names:
        *_, shares, seeds, tuned = REGIMES[name]
        stored = Stored(name, name)
        reach = math.inf if name.endswith("sweep") else 2.0  # the sweeps are older than `reach`
        runs = {"plain": (lsam.layerwise_sam(None, 0.0, selection="none"), None)}
        if tuned:
            rho = best_radius(stored)
            runs[f"SAM, rho {rho}"] = lsam.sam(rho), None
        for of_rise in shares:
            a, cap = of_rise if isinstance(of_rise, tuple) else (of_rise, CAP)
            label = f"share {a}" if cap == CAP else f"share {a}, cap {cap}"
            for key, (make, part) in methods(2 if name.startswith("mlp") else 4).items():
                radius = lsam.rise(share=a, cap=cap, reach=reach)
                runs[f"{key}, {label}"] = make(radius), part
        for seed in seeds:
            for key, (tx, part) in runs.items():
                stored.run(key, tx, part, seed)


if __name__ == "__main__":
    main(sys.argv[1:] or list(REGIMES))
