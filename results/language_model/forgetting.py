"""Forgetting and rounding: SAM while a model learns prose, and while it goes on with source code.

The second at a smaller rate; see `small.py`:

    python results/language_model/forgetting.py  # makes forgetting.jsonl
"""

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
from small import MODEL, SEEDS, TUNING, Stored, loss, mean, plain, sam, texts, train

import lsam_jax as lsam
from lsam_jax.experiments import statistics

PRETRAINING, FINETUNING = (1e-2, 1200), (3e-3, 300)  # first rates, and steps
SMALL = (0.005, 0.02, 0.05, 0.1)
LATE = 0.8  # the share of the steps before those of late SAM
# Pretraining / fine-tuning, and the radius of its SAM: none, chosen, or one that is felt.
BASE, FELT = ("AdamW / AdamW", 0.0), (("SAM / AdamW", 0.05), ("late SAM / AdamW", 0.2))
TUNED = ("SAM / AdamW", "late SAM / AdamW", "AdamW / SAM", "AdamW / late SAM")
BITS = (8, 4)
TABLES = (
    ("prose before", "prose", "forgotten", "code"),
    ("prose, 8 bits", "code, 8 bits", "prose, 4 bits", "code, 4 bits"),
)


def late(rho, steps):
    return lsam.with_parts(lsam.sam(rho), when=lsam.between(LATE, steps=steps))


WAYS = {"AdamW": plain, "SAM": sam, "late SAM": late}


def rounded(params, bits):
    """The matrices of the blocks and the head, each weight as the nearest multiple of a scale.

    Each output channel has its scale: its largest absolute weight over 2^(bits - 1) - 1.
    Embeddings, positions and norms stay.

    >>> import numpy as np
    >>> w = jnp.array([[0.7, -4.0], [-0.33, 14.0]])
    >>> blocks = dict.fromkeys(("qkv", "out", "up", "down"), 0 * w)
    >>> four = rounded({"head": w, "blocks": blocks}, bits=4)
    >>> np.asarray(four["head"], float).round(4).tolist(), bool(four["blocks"]["up"].any())
    ([[0.7, -4.0], [-0.3, 14.0]], False)
    """

    def one(weights):
        scale = jnp.abs(weights).max(-2, keepdims=True) / (2 ** (bits - 1) - 1)
        return scale * jnp.round(weights / jnp.where(scale > 0, scale, 1.0))

    blocks = {name: one(params["blocks"][name]) for name in ("qkv", "out", "up", "down")}
    return {**params, "head": one(params["head"]), "blocks": {**params["blocks"], **blocks}}


@functools.lru_cache(maxsize=2)
def pretrained(way, rho, seed):
    start = MODEL.init(jax.random.key(seed))
    return train(start, texts()[0]["prose"]["training"], PRETRAINING, seed, WAYS[way], rho)[0]


def finetuned(stored, cell, rho, seed, tuning=False):
    """A run of a cell, whose SAM has this radius."""
    key = {"cell": cell, "radius": rho, "seed": seed, "tuning": tuning}
    if stored.find(**key):
        return
    first, second = cell.split(" / ")
    before = pretrained(first, 0.0 if first == "AdamW" else rho, seed)
    text = texts()[0]["code"]["training"]
    after, _, followed = train(before, text, FINETUNING, seed, WAYS[second], rho)
    part, row = "validation" if tuning else "test", {}
    for bits in (None,) if tuning else (None, *BITS):
        old, new = (p if bits is None else rounded(p, bits) for p in (before, after))
        name = "" if bits is None else f", {bits} bits"
        row[f"prose before{name}"] = loss(old, "prose", part)
        row[f"prose{name}"] = loss(new, "prose", part)
        row[f"code{name}"] = loss(new, "code", part)
    stored.add({**key, **row, **followed})


def measured(stored, name, cell, rho):
    """A number of a cell, by seed; what is forgotten is how much the loss on prose has risen."""
    if name != "forgotten":
        return stored.of(name, cell=cell, radius=rho)
    before, after = (measured(stored, name, cell, rho) for name in ("prose before", "prose"))
    return {seed: after[seed] - before[seed] for seed in after}


def main(stored):
    for seed, cell, rho in itertools.product(TUNING, TUNED, SMALL):
        finetuned(stored, cell, rho, seed, tuning=True)
    tuned = [(cell, stored.best(SMALL, "prose", "code", cell=cell)) for cell in TUNED]
    cells = [BASE, *tuned, *FELT]
    for seed, cell in itertools.product(SEEDS, cells):
        finetuned(stored, *cell, seed)
    for table in TABLES:
        print(f"| {' | '.join(['', *table])} |")
        for cell in cells:
            shown = ["{}, {}".format(*cell)]
            for name in table:
                found = measured(stored, name, *cell)
                by = statistics.paired(found, measured(stored, name, *BASE))
                low_high = statistics.interval_text(by, 3)
                beside = f", {statistics.difference_text(by, 3)} ({low_high})"
                shown.append(mean(found) + ("" if cell == BASE else beside))
            print(f"| {' | '.join(shown)} |".replace(statistics.MINUS, "-"))


if __name__ == "__main__":
    assert not doctest.testmod().failed
    main(Stored("forgetting"))
