"""The main job: methods side by side on one data set, several seeds each.

Everything is fixed in advance by a preset, whose radii were chosen on training images with other
seeds; the reported accuracy is the last epoch's, and nothing was chosen by the test split. The best
epoch stands beside it for what it is: chosen by the test split.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from lsam_jax.experiments import files
from lsam_jax.experiments.bench.training_steps import Snapshots, StepTimes, time_steps
from lsam_jax.experiments.config import overrides, presets
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.methods import METHODS
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.study import summary
from lsam_jax.experiments.study.summary import Trained
from lsam_jax.experiments.training import loop, step
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.state import State

SNAPSHOTS = 4
DEFAULT = ("sgd", "sam", "layerwise_sam", "stale")


def configurations(
    preset: presets.Preset, methods: Sequence[str] = DEFAULT, settings: Sequence[str] = ()
) -> dict[str, Config]:
    """A preset's methods under one recipe.

    Args:
        preset: The recipe.
        methods: SGD should be the first, to which costs are relative.
        settings: Each ``name=value`` for all methods, or ``method.name=value`` for one of them.

    Returns:
        For each method's name in the table its configuration.

    Raises:
        ValueError: When a setting makes no sense, or a method is given twice.
    """
    if len(set(methods)) != len(methods):
        raise ValueError(f"methods={','.join(methods)} must name each method once")
    own: dict[str, list[str]] = {"": [], **{method: [] for method in methods}}
    for text in settings:
        method = text.partition("=")[0].rpartition(".")[0]
        if method not in own:
            raise ValueError(f"--set {text} is for a method that is not compared")
        own[method].append(text.removeprefix(f"{method}."))
    return {
        METHODS[method].label if method in METHODS else method: preset.configure(
            method, **{**overrides.parse(own[""]), **overrides.parse(own[method])}
        )
        for method in methods
    }


def compare(
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    out: str | Path,
    *,
    rounds: int = 100,
    data_dir: files.PathLike | None = None,
    weights: files.PathLike | None = None,
) -> dict[str, Any]:
    """Trains every configuration with every seed, and writes what came of it into `out`.

    Args:
        configs: By the name to print. Costs are relative to the first, which should be SGD. All
            must agree in everything but the method and its options.
        seeds: Of the runs of each method; the configurations' own seeds are not used.
        out: The directory for ``compare.json``; an old one is replaced.
        rounds: Of the cost measurement.
        data_dir: Where TFDS keeps prepared data; None for its default.
        weights: The checkpoint of a pretrained backbone, for a model that has one.

    Returns:
        What ``compare.json`` holds. A run whose loss was not finite is left out and named under
        ``failures``, and with it a method that has no other.

    Raises:
        ValueError: When an argument or a configuration makes no sense.
        OSError: When `out` cannot be written; found before anything is trained.
        NonFiniteLossError: When none of the first method's runs has a loss that is finite.
    """
    began = time.perf_counter()
    _check(configs, seeds, rounds)
    directory = files.writable_directory(out)
    data = datasets.load(next(iter(configs.values())).data, data_dir)
    programs = {name: step.build(config, data, weights=weights) for name, config in configs.items()}
    runs, snapshots, failures = _train(programs, seeds)
    there = {name: program for name, program in programs.items() if runs[name]}
    times = _measure(there, snapshots, rounds)
    report = summary.report({name: configs[name] for name in there}, seeds, runs, times)
    report["failures"] = failures
    report["seconds"] = time.perf_counter() - began
    files.write_json(directory / "compare.json", report)
    return report


def _check(configs: Mapping[str, Config], seeds: Sequence[int], rounds: int) -> None:
    if not configs:
        raise ValueError("configs is empty; give at least one method to compare")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)} must be at least one seed, and each only once")
    if rounds < SNAPSHOTS:
        raise ValueError(f"rounds={rounds} must be at least {SNAPSHOTS}")
    recipes = {dataclasses.replace(c, method="sgd", options=(), seed=0) for c in configs.values()}
    if len(recipes) > 1:
        raise ValueError("configs differ in more than the method and its own options")


def _train(
    programs: Mapping[str, step.Program], seeds: Sequence[int]
) -> tuple[dict[str, list[Trained]], dict[str, list[State]], dict[str, str]]:
    """All runs under one progress bar, states from all over each method's first run, and failures.

    Raises:
        NonFiniteLossError: When the first method is left without a run.
    """
    runs: dict[str, list[Trained]] = {name: [] for name in programs}
    failures: dict[str, str] = {}
    first = next(iter(programs))
    snapshots: dict[str, list[State]] = {}
    epochs = next(iter(programs.values())).config.epochs
    with tqdm(
        total=len(programs) * len(seeds) * epochs, unit="epoch", dynamic_ncols=True, mininterval=0.5
    ) as bar:
        for name, program in programs.items():  # so that no run's time has it
            bar.set_description(f"{name}, compiling")
            jax.block_until_ready(program.step(program.init(0), program.batches(0)[0]))
        # Seeds outside, so that a slow minute of the machine does not meet one method alone.
        for seed in seeds:
            for name, program in programs.items():
                bar.set_description(f"{name}, seed {seed}")
                watcher = _Watcher(bar, epochs)
                config = dataclasses.replace(program.config, seed=seed)
                try:
                    result = loop.fit(config, program=program, watcher=watcher)
                except loop.NonFiniteLossError as error:
                    if name == first and seed == seeds[-1] and not runs[first]:
                        raise  # there is nothing to compare with
                    failures[f"{name}, seed {seed}"] = str(error)
                    bar.write(f"{name}, seed {seed}: {error}", file=sys.stderr)
                    continue
                snapshots.setdefault(name, watcher.states)
                fitted = program.fitted(result.state, seed)
                runs[name].append(Trained(result.history, watcher.seconds, fitted))
    return runs, snapshots, failures


class _Watcher(Snapshots):
    """Moves the bar, and counts the seconds of training, evaluations left out."""

    def __init__(self, bar: Any, epochs: int):
        super().__init__({round(epochs * (i + 1) / SNAPSHOTS) for i in range(SNAPSHOTS)} - {0})
        self._bar, self.seconds = bar, 0.0

    def epoch(self, state: State, history: History, timing: dict[str, Any]) -> None:
        super().epoch(state, history, timing)
        self.seconds += timing["seconds"]
        self._bar.set_postfix(accuracy=f"{history.validation_accuracy[-1]:.3f}", refresh=False)
        self._bar.update()


def _measure(
    programs: Mapping[str, step.Program], snapshots: Mapping[str, Sequence[State]], rounds: int
) -> StepTimes:
    """Real training steps, taken up at states from all over a run.

    The cost of a layer-wise step depends on the layers that it selects, and these change
    during training.
    """
    moments = list(zip(*(snapshots[name] for name in programs), strict=True))
    share = max(1, rounds // len(moments))
    parts = [time_steps(list(programs.values()), states, share) for states in moments]
    return StepTimes.joined(parts)
