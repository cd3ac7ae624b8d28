"""A share that falls over the run, against one that stays: does one setting then serve all?

Held-out images and tuning seeds of evidence.py, 30 passes; one JSON line a run, made once:

    python results/rise/falling.py
"""

import evidence
import optax

import lsam_jax as lsam

STEPS = 30 * (960 // evidence.BATCH)
SHARES = {
    "0.2": 0.2,
    "0.35": 0.35,
    "0.4 to 0.1": optax.linear_schedule(0.4, 0.1, STEPS),
    "0.5 to 0.05": optax.linear_schedule(0.5, 0.05, STEPS),
}
SEEDS = {"vit": (100, 101, 102), "resnet": (100, 101), "mlp": (100, 101)}

if __name__ == "__main__":
    for net, seeds in SEEDS.items():
        stored = evidence.Stored(f"{net}-falling", net)
        for seed in seeds:
            for label, share in SHARES.items():
                for name in ("SAM", "SAM, 1/8", "stale"):
                    make, part = evidence.methods(4)[name]
                    tx = make(lsam.rise(share=share))
                    stored.run(f"{name}, share {label}", tx, part, seed, held_out=True)
