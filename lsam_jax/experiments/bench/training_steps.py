"""What a training step of each of several runs costs, relative to the first."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from lsam_jax.experiments import environment, files, tables
from lsam_jax.experiments.bench import timing
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.training import finished_run, loop, run_directory
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.state import State
from lsam_jax.experiments.training.step import Program, build

BATCHES = 8


def time_steps(programs: Iterable[Program], states: Iterable[State], rounds: int) -> np.ndarray:
    """Seconds [rounds, runs] of real training steps, interleaved; see `timing.interleaved`.

    Args:
        programs: One for each run, on the same data.
        states: Where each run is taken up; donated to its first step.
        rounds: How many steps of each are timed, after one that is not.
    """
    programs = list(programs)
    drawn = programs[0].batches(seed=0)
    batches = [drawn[step] for step in range(min(BATCHES, programs[0].steps_per_epoch))]
    calls = {
        str(number): _going_on(program, state, batches)
        for number, (program, state) in enumerate(zip(programs, states, strict=True))
    }
    return timing.interleaved(calls, rounds, warmup=2)


class Snapshots(loop.Watcher):
    """Copies the states of some epochs of a run, to time steps from there on.

    Attributes:
        states: What there is so far.
    """

    def __init__(self, epochs: Collection[int]):
        self._epochs, self.states = epochs, list[State]()

    def epoch(self, state: State, history: History, timing: dict[str, Any]) -> None:
        """Copies the state, if it is one of these epochs."""
        if history.epochs in self._epochs:
            self.states.append(jax.tree.map(jnp.copy, state))


def _going_on(program: Program, state: State, batches: Sequence[Split]) -> Callable[[], State]:
    """Goes on with a run, one step for each call but the first, which has the state as it is."""

    def step(state: State, batch: Split) -> State:
        return program.step(state, batch)[0]

    return partial(next, itertools.accumulate(itertools.cycle(batches), step, initial=state))


def costs_of_runs(
    directories: Sequence[files.PathLike],
    rounds: int = 15,
    out: files.PathLike | None = None,
    *,
    data_dir: files.PathLike | None = None,
) -> dict[str, Any]:
    """Times real training steps of runs from their last checkpoints on; the runs stay as they are.

    Args:
        directories: Of runs on the same data with the same batch size; costs are relative to
            the first.
        rounds: How many steps of each are timed.
        out: A JSON file to store the result in; None for none.
        data_dir: Where TFDS keeps prepared data; None for its default.

    Returns:
        What the file holds.

    Raises:
        ValueError: When a directory holds no run, or the runs do not belong together.
        OSError: When a checkpoint cannot be read, or `out` cannot be written.
    """
    if rounds < 1:
        raise ValueError(f"--rounds={rounds} must be at least 1")
    if len(set(map(str, directories))) < len(directories):
        raise ValueError(f"runs={' '.join(map(str, directories))} must name each run once")
    file = None if out is None else files.writable_file(out)
    configs = [run_directory.configuration(directory) for directory in directories]
    first = configs[0]
    for directory, config in zip(directories, configs, strict=True):
        if (config.data, config.batch_size) != (first.data, first.batch_size):
            raise ValueError(
                f"{str(directory)!r} trains on {config.data} in batches of {config.batch_size}, "
                f"but {str(directories[0])!r} on {first.data} in batches of {first.batch_size}"
            )
    data = datasets.load(first.data, data_dir)
    programs = [build(config, data) for config in configs]
    states = [finished_run.last_state(*of) for of in zip(directories, programs, strict=True)]
    steps = [int(state.step) for state in states]
    names = _names([Path(directory) for directory in directories])
    costs = timing.costs(names, time_steps(programs, states, rounds))
    report = {
        "runs": {
            name: {"config": config.to_json(), "from_step": step, "cost": costs[name]._asdict()}
            for name, config, step in zip(names, configs, steps, strict=True)
        },
        "rounds": rounds,
        "environment": environment.describe(),
    }
    if file is not None:
        files.write_json(file, report)
    return report


def _names(directories: Sequence[Path]) -> tuple[str, ...]:
    """The last part of their paths in which all of them differ, or else all of the paths."""
    for parts in zip(*(reversed(one.resolve().parts) for one in directories)):
        if len(set(parts)) == len(directories):
            return parts
    return tuple(map(str, directories))


def costs_table(report: Mapping[str, Any]) -> Table:
    """What `costs_of_runs` returned as a table."""
    columns: dict[str, Callable[[Any], str]] = {
        "method": lambda row: row["config"]["method"],
        "after step": lambda row: str(row["from_step"]),
        "ms a step": lambda row: f"{1000 * row['cost']['seconds']:.1f}",
        "cost": lambda row: "{ratio:.2f} ({low:.2f}-{high:.2f})".format(**row["cost"]),
    }
    words = (
        f"A whole training step from the run's last checkpoint on, {report['rounds']} interleaved "
        "rounds: median (quartiles) of the ratio to the first run."
    )
    return tables.table("run", report["runs"], columns, words=2, caption=words)
