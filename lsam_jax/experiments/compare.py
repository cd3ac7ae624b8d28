"""The main job: methods side by side on one data set, several seeds each.

Everything is fixed in advance: the hyper-parameters are the layer-wise SAM paper's (with fewer
epochs and a k that fits the smaller network), the reported accuracy is the last epoch's, and
nothing was chosen by the test split.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lsam_jax.experiments import data as datasets
from lsam_jax.experiments import output, plots, summary, timing, training
from lsam_jax.experiments.config import Config
from lsam_jax.experiments.data import Split
from lsam_jax.experiments.history import History
from lsam_jax.experiments.step import Program, State, build

SNAPSHOTS = 4


def default_configs(base: Config, sam_rho: float | None = None) -> dict[str, Config]:
    """SGD, SAM and layer-wise SAM under the same recipe.

    Args:
        base: Of layer-wise SAM.
        sam_rho: Of SAM; None for its default.

    Returns:
        For each method's name in the table its configuration, SGD first.
    """
    base = dataclasses.replace(base, method="lsam")
    other = dataclasses.replace(base, method="sgd", rho=None, alpha=None)
    return {
        "SGD": other,
        "SAM": dataclasses.replace(other, method="sam", rho=sam_rho),
        "layer-wise SAM": base,
    }


def compare(
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    out: str | Path,
    *,
    rounds: int = 100,
) -> dict[str, Any]:
    """Trains every configuration with every seed, and writes what came of it into `out`.

    Args:
        configs: By the name to print. Costs are relative to the first, which should be SGD. All
            must agree in everything but the method and its options.
        seeds: Of the runs of each method; the configurations' own seeds are not used.
        out: The directory for ``compare.json``, ``learning_curves.png``,
            ``gradient_norm.png`` and ``perturbations.png``; old files of these names are replaced.
        rounds: Of the cost measurement.

    Returns:
        What ``compare.json`` holds.

    Raises:
        ValueError: When an argument or a configuration makes no sense.
        OSError: When `out` cannot be written; found before anything is trained.
        NonFiniteLossError: When a run's loss is not finite.
    """
    _check(configs, seeds, rounds)
    directory = output.writable_directory(out)
    data = datasets.load(next(iter(configs.values())).data)
    programs = {name: build(config, data) for name, config in configs.items()}
    histories, snapshots = _train(programs, seeds)
    seconds = _measure(programs, snapshots, rounds)
    report = summary.report(configs, seeds, histories, seconds)
    output.write_json(directory / "compare.json", report)
    plots.learning_curves(histories, directory / "learning_curves.png")
    plots.gradient_norms(histories, directory / "gradient_norm.png")
    choosing = {name: histories[name] for name in configs if configs[name].method == "lsam"}
    steps = next(iter(programs.values())).steps_per_epoch * report["epochs"]
    plots.perturbations(choosing or histories, steps, directory / "perturbations.png")
    return report


def _check(configs: Mapping[str, Config], seeds: Sequence[int], rounds: int) -> None:
    if not configs:
        raise ValueError("configs is empty; give at least one method to compare")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)} must be at least one seed, and each only once")
    if rounds < SNAPSHOTS:
        raise ValueError(f"rounds={rounds} must be at least {SNAPSHOTS}")
    recipes = [dataclasses.asdict(config) for config in configs.values()]
    if any(
        recipe[name] != recipes[0][name]
        for recipe in recipes
        for name in recipe.keys() - {"method", "k", "rho", "alpha", "normalize", "seed"}
    ):
        raise ValueError("configs differ in more than the method and its own options")


def _train(
    programs: Mapping[str, Program], seeds: Sequence[int]
) -> tuple[dict[str, list[History]], dict[str, list[State]]]:
    """All runs under one progress bar, and states from all over each first run."""
    histories: dict[str, list[History]] = {name: [] for name in programs}
    snapshots: dict[str, list[State]] = {name: [] for name in programs}
    epochs = next(iter(programs.values())).config.epochs
    keep = {round(epochs * (i + 1) / SNAPSHOTS) for i in range(SNAPSHOTS)} - {0}
    with tqdm(
        total=len(programs) * len(seeds) * epochs, unit="epoch", dynamic_ncols=True, mininterval=0.5
    ) as bar:
        # Seeds outside, so that a slow minute of the machine does not meet one method alone.
        for seed in seeds:
            for name, program in programs.items():
                bar.set_description(f"{name}, seed {seed}")

                def after(
                    epoch: int,
                    history: History,
                    state: State,
                    kept: list[State] | None = snapshots[name] if seed == seeds[0] else None,
                ) -> None:
                    if kept is not None and epoch in keep:
                        kept.append(jax.tree.map(lambda x: x.copy(), state))
                    bar.set_postfix(
                        accuracy=f"{history.validation_accuracy[-1]:.3f}", refresh=False
                    )
                    bar.update()

                config = dataclasses.replace(program.config, seed=seed)
                result = training.fit(config, program=program, on_epoch=after)
                histories[name].append(result.history)
    return histories, snapshots


def _measure(
    programs: Mapping[str, Program], snapshots: Mapping[str, Sequence[State]], rounds: int
) -> np.ndarray:
    """Seconds [rounds, methods] of real training steps, taken up at states from all over a run.

    The cost of a layer-wise step depends on the layers that it selects, and these change
    during training.
    """
    some = next(iter(programs.values()))
    batches = list(datasets.batches(some.data.train, some.config.batch_size, jax.random.key(0)))
    parts = []
    moments = list(zip(*snapshots.values(), strict=True))
    for states in moments:
        steppers = {
            name: _Stepper(program, state, batches)
            for (name, program), state in zip(programs.items(), states, strict=True)
        }
        parts.append(timing.interleaved(steppers, max(1, rounds // len(moments))))
    return np.concatenate(parts)


class _Stepper:
    """Goes on with a run, one step for each call."""

    def __init__(self, program: Program, state: State, batches: Sequence[Split]):
        self._step = program.step
        self._state = state
        self._batches = itertools.cycle(batches)

    def __call__(self) -> State:
        self._state, _ = self._step(self._state, next(self._batches))
        return self._state
