"""Fine-tunes a byte-level language model with AdamW, SAM, layer-wise SAM and SL-SAM.

`python examples/finetune.py --out runs/finetune`: a minute and a half on two cores, nothing to
download. A small transformer, whose blocks are one scan over stacked weights, learns the language
reference that ships with Python; from there each method goes on with the source of modules of the
standard library, on the same batches. Prints the share of the parameters that a step perturbs and
trains, its cost relative to AdamW, and the loss of held-out modules, on which nothing was tuned;
writes finetune.json (with what identifies the text), finetune.txt, and the loss by cost as
finetune.png.

`lsam.stacked("blocks")` makes every matrix of every block a layer, and `lsam.freeze_inactive`
leaves alone what SL-SAM does not draw. Radii, and SL-SAM's share, are those of the papers.
"""

import argparse
import dataclasses
import hashlib
import itertools
import pathlib
import platform
import sysconfig
import time
from functools import partial
from pydoc_data import topics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from tqdm import tqdm

import lsam_jax as lsam
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.bench import timing
from lsam_jax.experiments.config import costs
from lsam_jax.experiments.plotting import COLOURS, LINES, curve, open_frame
from lsam_jax.experiments.statistics import over_seeds, statistics_text

TRAINING = (
    *("argparse", "ast", "calendar", "configparser", "contextlib", "dataclasses", "difflib"),
    *("doctest", "functools", "heapq", "inspect", "optparse", "pickle", "shutil", "statistics"),
    *("subprocess", "tarfile", "threading", "traceback", "typing"),
)
VALIDATION = ("cmd", "csv", "filecmp", "fractions", "pprint", "queue", "textwrap")
"""Of the standard library, to train on; and held out."""

BYTES, BATCH, PRETRAINING_RATE = 256, 8, 3e-3
PRETRAINING, FINETUNING = 0, 1  # what random numbers are for
POINTS, VALIDATION_WINDOWS = 8, 128  # how often a run looks at the held-out text, at how much of it
# A machine that does other things too disturbs the second less.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
KERNELS, ARRAYS = lsam.stacked("blocks"), lsam.stacked("blocks", layers="array")
"""Each matrix, or each array, of each block is a layer."""


def code(modules):
    """The source of modules of the standard library, which are not imported."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    parts = [(library / f"{name}.py").read_text(encoding="utf-8") for name in modules]
    return record(f"source of {', '.join(modules)}", parts)


def record(words, parts):
    """Bytes, u8[N], and what identifies them: they depend on the version of Python alone."""
    text = "\n".join(parts).encode()
    known = {"source": words, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    return np.frombuffer(text, np.uint8), {**known, "python": platform.python_version()}


def windows(tokens, starts, length):
    return tokens[starts[:, None] + np.arange(length)].astype(np.int32)


def batches(tokens, purpose, seed, context):
    """Random windows without end, i32[BATCH, context + 1]."""
    rng = np.random.default_rng([purpose, seed])
    while True:
        yield windows(tokens, rng.integers(len(tokens) - context, size=BATCH), context + 1)


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Causal, pre-LayerNorm, with learned positions; in its parameters "blocks" is stacked."""

    blocks: int = 4
    width: int = 64
    heads: int = 4
    context: int = 64

    def init(self, key):
        keys, depth, width = iter(jax.random.split(key, 7)), self.blocks, self.width

        def kernel(*shape, fan_in=width):
            return jax.random.normal(next(keys), shape) / np.sqrt(fan_in)

        def norm(*shape):
            return {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)}

        # What enters the residual stream starts small, by the number of its summands.
        summands = 2 * depth
        return {
            "embedding": kernel(BYTES, width),
            "position": kernel(self.context, width),
            "blocks": {
                "norm1": norm(depth, width),
                "qkv": kernel(depth, width, 3 * width),
                "out": kernel(depth, width, width, fan_in=width * summands),
                "norm2": norm(depth, width),
                "up": kernel(depth, width, 4 * width),
                "down": kernel(depth, 4 * width, width, fan_in=4 * width * summands),
            },
            "norm": norm(width),
            "head": kernel(width, BYTES),
        }

    def logits(self, params, tokens):
        """Of the byte after each of i32[B, T]: f32[B, T, 256]."""
        x = params["embedding"][tokens] + params["position"][: tokens.shape[1]]
        # Unrolled, as on a CPU a loop takes twice the time of its straight code.
        x, _ = jax.lax.scan(lambda x, p: (self.block(p, x), None), x, params["blocks"], unroll=True)
        return layer_norm(params["norm"], x) @ params["head"]

    def loss(self, params, windows):
        """Mean cross-entropy in nats of all but the first byte of each window, i32[B, T + 1]."""
        logits = self.logits(params, windows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()

    def block(self, p, x):
        x = x + self.attention(p, layer_norm(p["norm1"], x))
        return x + jax.nn.gelu(layer_norm(p["norm2"], x) @ p["up"]) @ p["down"]

    def attention(self, p, x):
        batch, length, width = x.shape
        q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(batch, length, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width // self.heads)
        scores = jnp.where(np.tri(length, dtype=bool), scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return mixed.reshape(batch, length, width) @ p["out"]


def layer_norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return p["scale"] * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) + p["bias"]


class Method(NamedTuple):
    """A way to fine-tune; `partial` if the layers that a step selects are all that it trains."""

    label: str
    sam: lsam.SamTransformation
    optimizer: optax.GradientTransformation
    partial: bool = False

    def start(self, params, draws=0):
        """The first state. A compiled method draws by its step count, which is moved by `draws`."""
        sam = self.sam.init(params)
        return params, sam._replace(count=sam.count + draws), self.optimizer.init(params)

    def step(self, model):
        """One compiled step of training, ``(state, windows)`` to the new state."""
        value_and_grad = lsam.value_and_grad(model.loss, self.sam)

        @jax.jit
        def step(state, windows):
            params, sam, optimizer = state
            _, grads, sam = value_and_grad(params, sam, windows)
            updates, optimizer = self.optimizer.update(grads, optimizer, params)
            return optax.apply_updates(params, updates), sam, optimizer

        return step


def methods(learning_rate):
    """By name, AdamW first, to which costs are relative."""
    adamw = optax.adamw(learning_rate, weight_decay=0.01)
    options = {"normalize": True, "layers": KERNELS}
    within = lsam.layerwise_sam(4, 0.05, selection=lsam.budget(0.5), **options)
    return {
        "adamw": Method("AdamW", lsam.layerwise_sam(None, 0.0, selection="none"), adamw),
        "sam": Method("SAM", lsam.sam(0.05), adamw),
        "layerwise_sam": Method(
            "layer-wise SAM, k=4", lsam.layerwise_sam(4, 0.05, **options), adamw
        ),
        "layerwise_sam-budget": Method("layer-wise, budget 0.5", within, adamw),
        "sl_sam": Method(
            "SL-SAM",
            lsam.sl_sam(0.01, 0.2, layers=ARRAYS),
            lsam.freeze_inactive(adamw, ARRAYS),
            partial=True,
        ),
    }


def priced(method, loss_fn, params, windows):
    """From the layers that a step selected, bool[L], to its counted cost and perturbed share."""
    parts = method.sam.method
    k = parts.k if isinstance(parts.k, int) else 1
    which = {"layers": parts.layers, "cuts": parts.cuts, "k": k, "selection": parts.selector}
    network = lsam.inspect(loss_fn, params, windows, **which)
    sizes = {layer.name: layer.parameters for layer in network.layers}
    names, total = lsam.layer_names(params, parts.layers), optax.tree.size(params)

    def price(selected):
        chosen = [name for name, one in zip(names, selected, strict=True) if one]
        cost = costs.drawn_alone(network, chosen, {}) if method.partial else network.cost(chosen)
        return cost, sum(sizes[name] for name in chosen) / total

    return price


def fit(step, state, drawn, steps, evaluate, price, bar):
    """Trains from a state on: the last state, what was seen on the way, and the share perturbed."""
    moments = {round(steps * i / POINTS) for i in range(1, POINTS + 1)}
    seen = {"step": [0], "cost": [0.0], "validation_loss": [evaluate(state[0])]}
    cost, shares = 0.0, []
    for number, some in enumerate(itertools.islice(drawn, steps), start=1):
        state = step(state, some)
        more, share = price(np.asarray(state[1].selected))
        cost, shares = cost + more, [*shares, share]
        bar.update()
        if number in moments:
            for entries, value in zip(seen.values(), (number, cost, evaluate(state[0]))):
                entries.append(value)
    return state, seen, float(np.mean(shares))


def finetune(a, model):
    """Trains with every method and every seed; everything that was found."""
    chosen = methods(a.learning_rate)
    chosen = {n: m for n, m in chosen.items() if not a.methods or n in ("adamw", *a.methods)}
    pages = [topics.topics[name] for name in sorted(topics.topics)]
    texts = {
        "pretraining": record("topics of the interactive help (pydoc_data.topics)", pages),
        "training": code(TRAINING),
        "validation": code(VALIDATION),
    }
    read, tokens, held_out = (tokens for tokens, _ in texts.values())
    starts = np.linspace(0, len(held_out) - model.context - 1, VALIDATION_WINDOWS).astype(int)
    parts = np.split(windows(held_out, starts, model.context + 1), VALIDATION_WINDOWS // BATCH)
    loss_of = jax.jit(model.loss)

    def evaluate(params):
        return float(np.mean([loss_of(params, x) for x in parts], dtype=float))

    total = a.pretraining_steps + a.seeds * len(chosen) * a.steps
    with tqdm(total=total, unit="step", dynamic_ncols=True, mininterval=0.5) as bar:
        bar.set_description("pretraining")
        adamw = methods(PRETRAINING_RATE)["adamw"]
        state, step = adamw.start(model.init(jax.random.key(0))), adamw.step(model)
        for some in itertools.islice(
            batches(read, PRETRAINING, 0, model.context), a.pretraining_steps
        ):
            state = jax.block_until_ready(step(state, some))
            bar.update()
        params, example = state[0], next(batches(tokens, FINETUNING, 0, model.context))
        prices = {name: priced(m, model.loss, params, example) for name, m in chosen.items()}
        steps, runs = {name: m.step(model) for name, m in chosen.items()}, {n: [] for n in chosen}
        for seed, (name, method) in itertools.product(range(a.seeds), chosen.items()):
            bar.set_description(f"{method.label}, seed {seed}")
            state = method.start(params, draws=seed * a.steps)
            drawn = batches(tokens, FINETUNING, seed, model.context)
            runs[name].append(fit(steps[name], state, drawn, a.steps, evaluate, prices[name], bar))
            if not np.isfinite(runs[name][-1][1]["validation_loss"][-1]):
                raise FloatingPointError(
                    f"{method.label}, seed {seed}: the loss is not finite; take a smaller "
                    f"--learning-rate than {a.learning_rate:g}"
                )
    measured = {}
    for clock, now in CLOCKS.items():
        drawn = {name: batches(tokens, FINETUNING, 0, model.context) for name in runs}
        going = {n: itertools.accumulate(drawn[n], steps[n], initial=runs[n][0][0]) for n in runs}
        calls = {name: partial(next, states) for name, states in going.items()}
        seconds = timing.interleaved(calls.values(), a.rounds, warmup=3, clock=now)
        measured[clock] = timing.costs(tuple(calls), seconds)
    found = {}
    for name, of in runs.items():
        share = float(np.mean([perturbed for *_, perturbed in of]))
        found[name] = {
            "label": chosen[name].label,
            "perturbed_parameters": share,
            "trained_parameters": share if chosen[name].partial else 1.0,
            "counted_cost": float(np.mean([seen["cost"][-1] for _, seen, _ in of])) / a.steps,
            "step_cost": {clock: cost[name]._asdict() for clock, cost in measured.items()},
            "validation_loss": over_seeds([seen["validation_loss"][-1] for _, seen, _ in of]),
            "runs": [seen for _, seen, _ in of],
        }
    return {
        "settings": {**vars(a), "model": dataclasses.asdict(model), "out": None},
        "validation_loss_before": found["adamw"]["runs"][0]["validation_loss"][0],
        "methods": found,
        "text": {name: identity for name, (_, identity) in texts.items()},
        "environment": environment.describe(),
    }


def table(report):
    """A line for each method."""
    lines = [f"{'':22}{'active (%)':>12}{'counted':>9}{'time':>6}{'CPU':>6}{'before':>8}  after"]
    for row in report["methods"].values():
        active = f"{100 * row['perturbed_parameters']:.0f} / {100 * row['trained_parameters']:.0f}"
        ratios = "".join(f"{cost['ratio']:6.2f}" for cost in row["step_cost"].values())
        losses = (
            f"{report['validation_loss_before']:8.3f}  {statistics_text(row['validation_loss'], 3)}"
        )
        lines.append(f"{row['label']:22}{active:>12}{row['counted_cost']:9.2f}{ratios}{losses}")
    return "\n".join([*lines, ""])


def plot(report, path):
    """Held-out loss by the cost counted so far, mean and range of the seeds."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for row, colour, line in zip(report["methods"].values(), COLOURS, LINES):
        cost = np.mean([run["cost"] for run in row["runs"]], axis=0)
        losses = [run["validation_loss"] for run in row["runs"]]
        curve(axes, cost, losses, color=colour, label=row["label"], linestyle=line)
    axes.set(xlabel="counted cost, in AdamW's gradients", ylabel="held-out loss (nats per byte)")
    axes.legend()
    open_frame(axes)
    figure.savefig(path, dpi=150)


def main(argv=None, model=Transformer()):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = list(methods(1.0))
    parser.add_argument("--methods", nargs="+", choices=known, help="AdamW is always there")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each method")
    parser.add_argument("--steps", type=positive, default=100, help="of each run")
    parser.add_argument(
        "--pretraining-steps", type=not_negative, default=500, help="on prose, once"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="AdamW's, on code")
    parser.add_argument("--rounds", type=positive, default=30, help="of the cost measurement")
    parser.add_argument("--out", type=files.writable_directory, default="runs/finetune")
    a = parser.parse_args(argv)
    report = finetune(a, model)
    files.write_json(a.out / "finetune.json", report)
    files.replace(a.out / "finetune.txt", table(report).encode())
    plot(report, a.out / "finetune.png")
    print(table(report), end="")


def not_negative(text):
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0")
    return int(text)


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(text)


if __name__ == "__main__":
    main()
