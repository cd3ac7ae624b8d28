"""Fine-tunes a byte-level language model with AdamW, SAM, layer-wise SAM and SL-SAM.

One model learns prose for a while; from there each method goes on with source code, on the same
batches. Nothing was tuned on the held-out text, and the last step counts.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lsam_jax.experiments import files
from lsam_jax.experiments.bench import timing
from lsam_jax.experiments.finetune import report as finetune_report
from lsam_jax.experiments.finetune import text
from lsam_jax.experiments.finetune.loop import FinetuneRun, Step, Stepper, build_step, fit, start
from lsam_jax.experiments.finetune.methods import FinetuneMethod, Prices, methods
from lsam_jax.experiments.finetune.report import plot, table_text
from lsam_jax.experiments.finetune.transformer import Transformer

VALIDATION_WINDOWS = 128
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""A machine that does other things too disturbs the second less."""

PRETRAINING, FINETUNING = 0, 1
"""What random numbers are for."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained, and for how long.

    Args:
        model: The network.
        pretraining_steps: On prose.
        steps: On code, of each run.
        batch_size: Windows of as many bytes as the model sees.
        pretraining_rate: AdamW's learning rate on prose.
        learning_rate: AdamW's on code.

    Raises:
        ValueError: When a value makes no sense.
    """

    model: Transformer = dataclasses.field(default_factory=Transformer)
    pretraining_steps: int = 500
    steps: int = 100
    batch_size: int = 8
    pretraining_rate: float = 3e-3
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "pretraining_rate", "learning_rate"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name}={value} must be more than 0")
        if self.pretraining_steps < 0:
            raise ValueError(f"pretraining_steps={self.pretraining_steps} must be at least 0")


def finetune(
    settings: Settings,
    seeds: Sequence[int],
    out: str | Path,
    *,
    names: Sequence[str] = (),
    rounds: int = 30,
) -> dict[str, Any]:
    """Trains with every method and every seed, and writes what came of it into `out`.

    Args:
        settings: What to train.
        seeds: Of the fine-tuning runs: which batches they see, what SL-SAM draws.
        out: The directory for ``finetune.json``, ``finetune.txt`` and ``finetune.png``; old files
            of these names are replaced.
        names: Some of the methods; empty for all. AdamW is always there.
        rounds: Of the cost measurement.

    Returns:
        What ``finetune.json`` holds.

    Raises:
        ValueError: When an argument makes no sense.
        OSError: When `out` cannot be written, or there is no text; found before anything is
            trained.
        FloatingPointError: When a run's loss is not finite.
    """
    chosen = _choose(methods(settings.learning_rate), names)
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds={list(seeds)} must be at least one, from 0 on, each only once")
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    directory = files.writable_directory(out)
    prose = text.prose()
    code = text.code(text.TRAINING)
    held_out = text.code(text.VALIDATION)
    total = settings.pretraining_steps + len(seeds) * len(chosen) * settings.steps
    with tqdm(total=total, unit="step", dynamic_ncols=True, mininterval=0.5) as bar:
        params = pretrain(settings, prose.tokens, bar)
        steps = {name: build_step(settings.model, method) for name, method in chosen.items()}
        texts = code.tokens, held_out.tokens
        runs = _train(settings, chosen, steps, seeds, params, texts, bar)
    costs = {clock: _measure(settings, steps, runs, code.tokens, rounds, clock) for clock in CLOCKS}
    report = finetune_report.report(settings, chosen, seeds, runs, costs, rounds)
    report["text"] = {
        "pretraining": prose.record(),
        "training": code.record(),
        "validation": held_out.record(),
    }
    files.write_json(directory / "finetune.json", report)
    table = table_text(report)
    files.replace(directory / "finetune.txt", table.encode())
    plot(report, directory / "finetune.png")
    return report


def _choose(known: Mapping[str, FinetuneMethod], names: Sequence[str]) -> dict[str, FinetuneMethod]:
    for name in names:
        if name not in known:
            raise ValueError(f"method={name!r} is not known; choose from {', '.join(known)}")
    first = next(iter(known))
    return {n: method for n, method in known.items() if not names or n == first or n in names}


def pretrain(settings: Settings, tokens: np.ndarray, bar: Any = None) -> Any:
    """Parameters after the pretraining steps.

    Args:
        settings: What to train.
        tokens: u8[N], the text.
        bar: Moved with each step, if there is one.
    """
    method = methods(settings.pretraining_rate)["adamw"]
    state = start(method, settings.model.init(jax.random.key(0)))
    step = build_step(settings.model, method)
    if bar is not None:
        bar.set_description("pretraining")
    for windows in itertools.islice(
        batches(settings, tokens, PRETRAINING, 0), settings.pretraining_steps
    ):
        state, _ = step(state, windows)
        if bar is not None:
            jax.block_until_ready(state)
            bar.update()
    return state.params


def batches(
    settings: Settings, tokens: np.ndarray, purpose: int, seed: int
) -> Iterator[np.ndarray]:
    """Random windows without end, i32[batch size, context + 1]."""
    rng = np.random.default_rng([purpose, seed])
    while True:
        yield text.drawn(tokens, settings.batch_size, settings.model.context + 1, rng)


def _train(
    settings: Settings,
    chosen: Mapping[str, FinetuneMethod],
    steps: Mapping[str, Step],
    seeds: Sequence[int],
    params: Any,
    texts: tuple[np.ndarray, np.ndarray],
    bar: Any,
) -> dict[str, list[FinetuneRun]]:
    """All runs, by method in the order of the seeds; of texts the second is held out."""
    model, (tokens, held_out) = settings.model, texts
    windows = text.spread(held_out, VALIDATION_WINDOWS, model.context + 1)
    loss_of = jax.jit(model.loss)

    def evaluate(params: Any) -> float:
        parts = np.array_split(windows, -(-len(windows) // settings.batch_size))
        return float(np.average([loss_of(params, x) for x in parts], weights=list(map(len, parts))))

    example = next(batches(settings, tokens, FINETUNING, 0))
    prices = {name: Prices(m, model.loss, params, example) for name, m in chosen.items()}
    runs: dict[str, list[FinetuneRun]] = {name: [] for name in chosen}
    for seed in seeds:
        for name, method in chosen.items():
            bar.set_description(f"{method.label}, seed {seed}")
            state = start(method, params, draws=seed * settings.steps)
            drawn = batches(settings, tokens, FINETUNING, seed)
            run = fit(steps[name], state, drawn, settings.steps, evaluate, prices[name], bar)
            if not np.isfinite(run.validation_loss[-1]):
                raise FloatingPointError(
                    f"{method.label}, seed {seed}: the loss is not finite; take a smaller "
                    f"--learning-rate than {settings.learning_rate:g}"
                )
            runs[name].append(run)
    return runs


def _measure(
    settings: Settings,
    steps: Mapping[str, Step],
    runs: Mapping[str, Sequence[FinetuneRun]],
    tokens: np.ndarray,
    rounds: int,
    clock: str,
) -> dict[str, timing.Cost]:
    """Costs of steps that go on from the first seed's last states."""
    steppers = {
        name: Stepper(step, runs[name][0].state, batches(settings, tokens, FINETUNING, 0))
        for name, step in steps.items()
    }
    seconds = timing.interleaved(steppers, rounds, warmup=2, clock=CLOCKS[clock])
    return timing.costs(tuple(steps), seconds)
