"""The radius that sets itself, where AdamW goes through few bytes of prose many times.

So that it fits these and no others; see `small.py`:

    python results/language_model/radius.py  # makes radius.jsonl
"""

import functools
import itertools

import jax
from small import MODEL, SEEDS, TUNING, Stored, finetune, loss, mean, plain, sam, texts, train

import lsam_jax as lsam
from lsam_jax.experiments.statistics import kept

REPEATED, REPEATING = 2_000, (1e-2, 600)  # bytes to train on; first rate, and steps
RADII, SHARES = (0.1, 0.2, 0.4, 0.8, 1.6), (0.4, 0.2, 0.1)


def layerwise(rho, steps):
    return lsam.layerwise_sam(4, rho, normalize=True, layers=finetune.KERNELS)


def stale(rho, steps):
    return lsam.with_parts(lsam.sam(rho), ascent=lsam.stale())


def without_rest(rho, steps):
    return lsam.with_parts(lsam.sam(rho), ascent=lsam.stale(rest=1))


METHODS = {  # and the part of the batch that each climbs
    "SAM": (sam, None),
    "SAM on 1/8 of the batch": (sam, 1 / 8),
    "layer-wise SAM, k=4, normalised": (layerwise, None),
    "the same on 1/8": (layerwise, 1 / 8),
    "stale SAM": (stale, None),
    "stale SAM without rest": (without_rest, None),
}


@functools.cache
def by_share(make):
    return lambda share, steps: make(lsam.rise(share=share), steps)


def main(stored):
    text = texts()[0]["prose"]["training"][:REPEATED]

    def run(method, make, value, seed, part=None, tuning=False):
        key = {"method": method, "radius": value, "seed": seed, "tuning": tuning}
        if stored.find(**key):
            return

        def look(params):
            held_out = ("validation",) if tuning else ("validation", "test")
            return {name: loss(params, "prose", name) for name in held_out}

        start = MODEL.init(jax.random.key(seed))
        looks = look if make is plain else None
        params, looked, followed = train(start, text, REPEATING, seed, make, value, part, looks)
        fitted = loss(params, "prose", "training", REPEATED)
        stored.add({**key, "training": fitted, **look(params), **followed, "eighths": looked})

    for seed in SEEDS:
        run("AdamW", plain, 0.0, seed)
        for share, (name, (make, part)) in itertools.product(SHARES, METHODS.items()):
            run(name, by_share(make), share, seed, part)
    for rho, seed in itertools.product(RADII, TUNING):
        run("SAM, fixed", sam, rho, seed, tuning=True)
    best = stored.best(RADII, "validation", method="SAM, fixed")
    for seed in SEEDS:
        run("SAM, fixed", sam, best, seed)
    adamw, fixed = stored.of("test", method="AdamW"), stored.of("test", method="SAM, fixed")
    print(f"AdamW {mean(adamw)}, SAM with a radius of {best} {mean(fixed)}")
    for name in METHODS:
        cells = []
        for share in SHARES:
            found = stored.of("test", method=name, radius=share)
            of = kept(found, adamw, fixed)
            within = "" if of.low is None else f" ({100 * of.low:.0f} to {100 * of.high:.0f})"
            cells.append(f"{mean(found)}; {100 * of.share:.0f}{within}")
        print(f"| {' | '.join([name, *cells])} |")


if __name__ == "__main__":
    main(Stored("radius"))
