"""A small language model: the radius that sets itself, and SAM's share in forgetting and rounding.

Trains the byte-level transformer of examples/finetune.py, with two blocks of width 32, stores and
prints one JSON line a run, skips the runs that are stored, and ends with a table; when it begins to
train, a line says on what:

    python results/language_model/study.py radius      # radius.jsonl
    python results/language_model/study.py forgetting  # forgetting.jsonl

`radius` goes through few bytes of prose many times, so that AdamW fits these and no others.
`forgetting` trains on prose and goes on with source code, at a smaller rate. Prose is the language
reference that ships with Python: its paragraphs, each once, shuffled once, and divided into a test,
a validation and a training text. Radii are chosen on validation texts, with seeds that no final run
has. Runs of one seed share their first weights and their batches. A loss that is not finite is
stored as null: such a run is never the best, and no mean is taken of it. One core is used.
"""

import doctest
import functools
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import finetune
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsam_jax as lsam
from lsam_jax.experiments import environment, files, statistics
from lsam_jax.experiments.frontier.kept import kept

HERE = Path(__file__).parent
MODEL = finetune.Transformer(blocks=2, width=32, heads=2, context=32)
TUNING, SEEDS = (100, 101), (0, 1, 2, 3, 4)
HELD_OUT, WINDOWS = 40_000, 1024  # bytes of each held-out text of prose; windows that a loss is of
CODE = {  # modules of the standard library
    "training": finetune.TRAINING,
    "validation": ("bisect", "copy", "getopt", "glob", "random", "sched", "shlex"),
    "test": finetune.VALIDATION,
}

REPEATED, REPEATING = 2_000, (1e-2, 600)  # bytes that `radius` trains on; first rate, and steps
RADII, SHARES = (0.1, 0.2, 0.4, 0.8, 1.6), (0.4, 0.2, 0.1)

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


@functools.cache
def texts():
    """The bytes, by kind and part; and what identifies them."""
    pages = [finetune.topics.topics[name] for name in sorted(finetune.topics.topics)]
    whole = list(dict.fromkeys(p for page in pages for p in page.split("\n\n")))
    order = np.random.default_rng(0).permutation(len(whole))
    words = "paragraphs of the interactive help (pydoc_data.topics), each once, shuffled"
    prose, known = finetune.record(words, ["\n\n".join(whole[i] for i in order)])
    parts = np.split(prose, (HELD_OUT, 2 * HELD_OUT))
    code = {part: finetune.code(modules) for part, modules in CODE.items()}
    tokens = {
        "prose": dict(zip(("test", "validation", "training"), parts)),
        "code": {part: of for part, (of, _) in code.items()},
    }
    return tokens, {"prose": known, **{f"code, {part}": known for part, (_, known) in code.items()}}


def plain(rho, steps):
    """Plain training; it has a radius as all have."""
    return lsam.layerwise_sam(None, 0.0, selection="none")


def sam(rho, steps):
    return lsam.sam(rho)


def late(rho, steps):
    return lsam.with_parts(lsam.sam(rho), when=lsam.between(LATE, steps=steps))


def layerwise(rho, steps):
    return lsam.layerwise_sam(4, rho, normalize=True, layers=finetune.KERNELS)


def stale(rho, steps):
    return lsam.with_parts(lsam.sam(rho), ascent=lsam.stale())


WAYS = {"AdamW": plain, "SAM": sam, "late SAM": late}
METHODS = {  # and the part of the batch that each climbs
    "SAM": (sam, None),
    "SAM on 1/8 of the batch": (sam, 1 / 8),
    "layer-wise SAM, k=4, normalised": (layerwise, None),
    "the same on 1/8": (layerwise, 1 / 8),
    "stale SAM": (stale, None),
}


@functools.cache
def by_share(make):
    return lambda share, steps: make(lsam.rise(share=share), steps)


@functools.cache
def stepper(make, part, rate, steps):
    """The optimizer and a compiled step, for any radius or share: they are traced."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=0.01)

    @jax.jit
    def step(params, sam_state, state, windows, radius):
        tx = make(radius, steps)
        value_and_grad = lsam.value_and_grad(MODEL.loss, tx, ascent_batch=part)
        _, grads, sam_state = value_and_grad(params, sam_state, windows)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), sam_state, state

    return optimizer, step


def train(params, text, length, seed, make, radius, part=None, look=None):
    """The last weights, what `look` saw in each eighth, and rho and rise in each quarter."""
    optimizer, step = stepper(make, part, *length)
    sam_state, state = make(radius, length[1]).init(params), optimizer.init(params)
    drawn = finetune.batches(text, length[1], seed, MODEL.context)
    seen, looked = [], []
    for i, windows in enumerate(itertools.islice(drawn, length[1]), start=1):
        params, sam_state, state = step(params, sam_state, state, windows, radius)
        seen.append((sam_state.rho, sam_state.rise))
        if look and i % (length[1] // 8) == 0:
            looked.append(look(params))
    means = [np.mean(quarter, 0) for quarter in np.array_split(np.array(seen, float), 4)]
    rho, rise = np.round(means, 4).T.tolist()
    return params, looked, {"rho": rho, "rise": rise}


LOSS = jax.jit(MODEL.loss)


def loss(params, kind, part, size=None):
    """Nats per byte, over windows that lie evenly in a text."""
    text = texts()[0][kind][part][:size]
    starts = np.linspace(0, len(text) - MODEL.context - 1, WINDOWS).astype(int)
    batches = np.split(finetune.windows(text, starts, MODEL.context + 1), 8)
    return round(float(np.mean([LOSS(params, windows) for windows in batches], dtype=float)), 5)


def rounded(params, bits):
    """The matrices of the blocks and the head, each weight as the nearest multiple of a scale.

    Each output channel has its scale: its largest absolute weight over 2^(bits - 1) - 1.
    Embeddings, positions and norms stay.

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


class Stored:
    """The runs of a question, in a file, one JSON line each."""

    def __init__(self, name):
        self.file, self.described = HERE / f"{name}.jsonl", False
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def find(self, **key):
        return [row for row in self.rows if key.items() <= row.items()]

    def add(self, row):
        if not self.described:
            self.described = True
            commit = subprocess.check_output(("git", "rev-parse", "HEAD"), cwd=HERE, text=True)
            about = {"commit": commit.strip(), "text": texts()[1]}
            self.add({"environment": {**environment.describe(), **about}})
        self.rows.append(files.finite(row))
        line = json.dumps(self.rows[-1], allow_nan=False)
        with self.file.open("a") as lines:
            lines.write(line + "\n")
        print(line, flush=True)

    def best(self, radii, *names, **key):
        """The radius with the lowest sum of losses over the tuning runs."""

        def total(radius):
            found = self.find(radius=radius, tuning=True, **key)
            losses = [row[name] for row in found for name in names]
            assert len(found) == len(TUNING)
            return np.inf if None in losses else sum(losses)

        return min(radii, key=total)

    def of(self, name, **key):
        """A number of each final run, by its seed."""
        found = {row["seed"]: row[name] for row in self.find(tuning=False, **key)}
        assert set(found) == set(SEEDS) and None not in found.values(), (name, key, found)
        return found


def mean(found):
    return statistics.spread_text(statistics.spread(list(found.values())), 3)


def radius(stored):
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


def forgetting(stored):
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


QUESTIONS = {"radius": radius, "forgetting": forgetting}

if __name__ == "__main__":
    assert not doctest.testmod().failed
    for name in sys.argv[1:] or QUESTIONS:
        QUESTIONS[name](Stored(name))
