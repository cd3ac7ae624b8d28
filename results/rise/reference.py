"""The share of what has been learnt, counted from log 10 instead of the first loss.

A transformer's first loss is above that of a network that knows nothing. Held-out images and tuning
seeds of evidence.py, 30 passes; one JSON line a run, made once:

    python results/rise/reference.py
"""

import math

import evidence
import jax.numpy as jnp

import lsam_jax as lsam

NOTHING = math.log(10)
RUNS = {
    "vit": ((100, 101, 102), 0.4, 0.5),
    "resnet": ((100, 101), 0.4, 0.5),
    "mlp": ((100, 101), 0.4),
}


def target(share):
    def of(first, loss, step):
        left = jnp.minimum(NOTHING, first) - loss
        return jnp.minimum(share / (1 - share) * left, evidence.CAP * NOTHING)

    return of


if __name__ == "__main__":
    for net, (seeds, *shares) in RUNS.items():
        stored = evidence.Stored(f"{net}-reference", net)
        for share in shares:
            for seed in seeds:
                for name in ("SAM", "SAM, 1/8"):
                    make, part = evidence.methods(4)[name]
                    tx = make(lsam.rise(target(share)))
                    stored.run(f"{name}, {share} of log 10", tx, part, seed, held_out=True)
