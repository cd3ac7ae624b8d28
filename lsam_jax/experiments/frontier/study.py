"""Makes the runs: chooses each contender's radius, then trains it with the final seeds."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lsam_jax.components.radius import Radii
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data import datasets, label_noise
from lsam_jax.experiments.frontier import costs
from lsam_jax.experiments.frontier.contenders import Contender, rounded
from lsam_jax.experiments.frontier.ledger import Key, Ledger
from lsam_jax.experiments.frontier.regimes import TUNING_SEEDS, Regime
from lsam_jax.experiments.training.loop import NonFiniteLossError, fit
from lsam_jax.experiments.training.state import State
from lsam_jax.experiments.training.step import Program, build

HELD = Radii(
    lambda g, at, now, memory: memory, init=lambda layers, leaves: jnp.zeros((), jnp.float32)
)
"""A radius that stands in the state, so that one program serves all radii of a contender."""

MOST_STEPS = 3
"""How often a grid whose best radius is at one of its ends goes on beyond it."""


def choose(radii: Sequence[float], accuracy: Callable[[float], float]) -> float:
    """The radius of best accuracy; the smaller of equals.

    A grid whose best is at an end goes on beyond it, by the ratio of the last two, as long as that
    gets better and `MOST_STEPS` times at most.

    Example:
        >>> choose((1.0, 2.0), lambda rho: -abs(rho - 7))
        8.0
    """
    grid = list(radii)
    best = max(grid, key=accuracy)
    for _ in range(MOST_STEPS if len(grid) > 1 else 0):
        if best == grid[-1]:
            grid.append(rounded(grid[-1] ** 2 / grid[-2]))
        elif best == grid[0]:
            grid.insert(0, rounded(grid[0] ** 2 / grid[1]))
        else:
            break
        best = max(grid, key=accuracy)
    return best


def run(regime: Regime, directory: Path, data: datasets.Dataset) -> Ledger:
    """Makes the runs of a regime that are not in its ledger, contender by contender.

    Returns:
        The ledger, with all of them.

    Raises:
        OSError, ValueError: When the ledger cannot be read or written.
    """
    runner = _Runner(regime, Ledger(directory / f"{regime.name}.jsonl"), data)
    for contender in regime.contenders:
        rho = runner.radius(contender)
        for seed in regime.seeds_of(contender):
            runner.ensure(contender, rho, seed, tuning=False)
    return runner.ledger


def measure_once(regime: Regime, directory: Path, data: datasets.Dataset) -> None:
    """Writes what steps cost beside the ledger; see `costs.measure`.

    All are timed anew where one is missing: costs are relative to SGD's of the same measurement.
    """
    file = directory / f"{regime.name}-costs.json"
    ledger = Ledger(directory / f"{regime.name}.jsonl")
    there = files.read_json(file) or {"costs": {}}
    known = {*there["costs"], *there.get("left_out", [])}
    if any(one.name not in known for one in costs.to_time(regime, ledger)):
        files.write_json(file, costs.measure(regime, ledger, data))


class _Runner:
    """Makes runs and notes them, one program for all seeds and radii of a contender."""

    def __init__(self, regime: Regime, ledger: Ledger, whole: datasets.Dataset):
        self.regime, self.ledger = regime, ledger
        files.writable_directory(ledger.file.parent)
        whole = datasets.limited(whole, regime.config.images)  # held-out images are among these
        self._data = {False: whole, True: datasets.hold_out(whole, regime.held_out)}
        self._program: tuple[Any, Program] | None = None
        self._environment = environment.describe()

    def radius(self, contender: Contender) -> float | None:
        """The radius that held-out images choose; None where there is nothing to choose."""
        if not contender.radii:
            return None
        if len(contender.radii) == 1:
            return contender.radii[0]

        def accuracy(rho: float) -> float:
            for seed in TUNING_SEEDS:
                self.ensure(contender, rho, seed, tuning=True)
            return self.ledger.mean_tuned(contender.name, rho, TUNING_SEEDS)

        return choose(contender.radii, accuracy)

    def ensure(self, contender: Contender, rho: float | None, seed: int, *, tuning: bool) -> None:
        """Makes a run, unless it is there."""
        key = Key(contender.name, rho, seed, tuning)
        config = self.regime.configure(contender, rho, seed)
        if tuning and config.images is not None:
            images = config.images - self.regime.held_out
            config = dataclasses.replace(config, images=images, validation_images=None)
        if key in self.ledger:
            self.ledger.check(key, _digest(config))
            return
        began, processor = time.perf_counter(), time.process_time()
        result = self._result(config, self._data[tuning])
        result |= {
            "seconds": round(time.perf_counter() - began, 2),
            "processor_seconds": round(time.process_time() - processor, 2),
            "config": _digest(config),
            **{name: self._environment[name] for name in ("jax", "date")},
        }
        self.ledger.add(key, files.finite(result))
        last = result["accuracy"][-1]
        print(f"{self.regime.name} {key}: {100 * last:.1f} %", file=sys.stderr, flush=True)

    def _result(self, config: Config, data: datasets.Dataset) -> dict[str, Any]:
        config, prepare = _held(config)
        same = dataclasses.replace(config, seed=0), id(data)
        if self._program is None or self._program[0] != same:
            self._program = same, build(config, data)
        program = self._program[1]
        try:
            trained = fit(config, program=program, prepare=prepare)
        except NonFiniteLossError:
            nothing = {"noisy_accuracy": 0.0, "fitted": 0.0, "cost": None}
            return {"accuracy": [0.0], "diverged": True, **nothing}
        history, state = trained.history, trained.state
        held_out = data._replace(train=program.data.validation)
        labels = label_noise.given(held_out, config.label_noise, config.seed)
        return {
            "accuracy": [round(x, 5) for x in history.validation_accuracy],
            "noisy_accuracy": program.evaluate(labels, state)[1],
            "fitted": program.fitted(state, config.seed),
            "cost": float(np.mean(history.cost)),
            "radius": _quarters(history.rho),
            "rise": _quarters(history.rise),
            # How often each kernel was perturbed, in network order.
            "chosen": [round(n / history.step[-1], 3) for n in history.perturbations[-1]],
        }


def _held(config: Config) -> tuple[Config, Callable[[State], State]]:
    """The configuration with its radius in the state, and what puts it there."""
    options = dict(config.options)
    rho = options.get("rho")
    if not isinstance(rho, float):
        return config, lambda state: state

    def prepare(state: State) -> State:
        memory = state.sam.memory._replace(radius=jnp.float32(rho))
        return state._replace(sam=state.sam._replace(memory=memory))

    return dataclasses.replace(config, options=options | {"rho": HELD}), prepare


def _digest(config: Config) -> str:
    """Equal of equal configurations, also when a later version has settings that are not used."""
    usual = Config().to_json()
    said = {name: x for name, x in config.to_json().items() if x != usual[name]}
    text = json.dumps(said, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _quarters(values: Sequence[float]) -> list[float]:
    return [round(float(np.mean(part)), 4) for part in np.array_split(values, min(4, len(values)))]
