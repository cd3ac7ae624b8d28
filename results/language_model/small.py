"""A small language model, its texts and its stored runs, for `radius.py` and `forgetting.py`.

The byte-level transformer of examples/finetune.py, with two blocks of width 32. A study stores and
prints one JSON line a run, skips the runs that are stored, and ends with a table; when it begins to
train, a line says on what. Prose is the language reference that ships with Python: its paragraphs,
each once, shuffled once, and divided into a test, a validation and a training text. Radii are
chosen on validation texts, with seeds that no final run has. Runs of one seed share their first
weights and their batches. A loss that is not finite is stored as null: such a run is never the
best, and no mean is taken of it. One core is used.
"""

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
import numpy as np
import optax

import lsam_jax as lsam
from lsam_jax.experiments import environment, files, statistics

HERE = Path(__file__).parent
MODEL = finetune.Transformer(blocks=2, width=32, heads=2, context=32)
TUNING, SEEDS = (100, 101), (0, 1, 2, 3, 4)
HELD_OUT, WINDOWS = 40_000, 1024  # bytes of each held-out text of prose; windows that a loss is of
CODE = {  # modules of the standard library
    "training": finetune.TRAINING,
    "validation": ("bisect", "copy", "getopt", "glob", "random", "sched", "shlex"),
    "test": finetune.VALIDATION,
}


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
