"""What a training step of each of several runs costs, relative to the first."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from lsam_jax.experiments import environment, files, tables
from lsam_jax.experiments.bench import timing
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.training import finished_run, loop, run_directory
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.state import State
from lsam_jax.experiments.training.step import Program, build

BATCHES = 8


class StepTimes(NamedTuple):
    """What steps of runs took.

    Attributes:
        seconds: [rounds, runs].
        selected: For each run bool[rounds, L], the layers that its steps perturbed.
    """

    seconds: np.ndarray
    selected: Sequence[np.ndarray]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several measurements of the same runs as one."""
        seconds, selected = zip(*parts, strict=True)
        rows = zip(*selected, strict=True)
        return cls(np.concatenate(seconds), [np.concatenate(of_run) for of_run in rows])

    def costs(self, names: Sequence[str]) -> dict[str, timing.Cost]:
        """Relative to the first run's; steps that perturbed the same layers are one kind."""
        return timing.costs(names, self.seconds, list(map(timing.kinds_of, self.selected)))


def time_steps(programs: Sequence[Program], states: Sequence[State], rounds: int) -> StepTimes:
    """Times real training steps, interleaved; see `timing.interleaved`.

    Args:
        programs: One for each run, on the same data.
        states: Where each run is taken up; donated to its first step.
        rounds: How many steps of each are timed, after one that is not.
    """
    drawn = programs[0].batches(seed=0)
    batches = [drawn[step] for step in range(min(BATCHES, programs[0].steps_per_epoch))]
    each = zip(programs, states, strict=True)
    calls = [_GoingOn(program, state, batches) for program, state in each]
    seconds = timing.interleaved(calls, rounds, warmup=1)
    return StepTimes(seconds, [np.stack(call.selected[-rounds:]) for call in calls])


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


class _GoingOn:
    """Goes on with a run, one step for each call."""

    def __init__(self, program: Program, state: State, batches: Sequence[Split]):
        self._program, self._state = program, state
        self._batches = itertools.cycle(batches)
        self.selected: list[np.ndarray] = []

    def __call__(self) -> State:
        self._state, _ = self._program.step(self._state, next(self._batches))
        # A copy of a few numbers, as the next step is given the array itself.
        self.selected.append(np.array(self._state.sam.selected))
        return self._state


def costs_of_runs(
    directories: Sequence[files.PathLike],
    rounds: int = 15,
    out: files.PathLike | None = None,
    *,
    names: Sequence[str] | None = None,
    data_dir: files.PathLike | None = None,
    weights: files.PathLike | None = None,
) -> dict[str, Any]:
    """Times real training steps of runs from their last checkpoints on; the runs stay as they are.

    Args:
        directories: Of runs on the same data with the same batch size; costs are relative to
            the first.
        rounds: How many steps of each are timed.
        out: A JSON file to store the result in; None for none.
        names: What to call them; None for what tells their directories apart.
        data_dir: Where TFDS keeps prepared data; None for its default.
        weights: The checkpoint of their pretrained backbone, for a model that has one.

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
        if _batches(config) != _batches(first):
            raise ValueError(
                f"{str(directory)!r} trains on {_batches(config)}, but {str(directories[0])!r} on "
                f"{_batches(first)}: cost compares runs on batches of one kind"
            )
    data = datasets.load(first.data, data_dir)
    programs = [build(config, data, weights=weights) for config in configs]
    states = [finished_run.last_state(*of) for of in zip(directories, programs, strict=True)]
    steps = [int(state.step) for state in states]
    names = names or _names([Path(directory) for directory in directories])
    costs = time_steps(programs, states, rounds).costs(names)
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


def _batches(config: Config) -> str:
    """What decides the shape of a batch."""
    size = "" if config.image_size is None else f", image_size={config.image_size}"
    return f"data={config.data}, batch_size={config.batch_size}{size}"


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
        "cost": lambda row: "{mean:.2f} ({low:.2f}-{high:.2f})".format(**row["cost"]),
    }
    words = (
        f"A whole training step from the run's last checkpoint on, {report['rounds']} interleaved "
        "rounds: mean over the kinds of step (quartiles of all) of the ratio to the first run."
    )
    if any("perturb_from" in row["config"]["options"] for row in report["runs"].values()):
        words += " With perturb_from: of a step that perturbs, not of the run."
    return tables.table("run", report["runs"], columns, words=2, caption=words)
