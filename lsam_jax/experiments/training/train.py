"""A run in a directory: opened, watched, and left in order whatever happens."""

import contextlib
import dataclasses
import hashlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from lsam_jax.components.rise import Following
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.distributed.devices import layout
from lsam_jax.experiments.distributed.process_group import Team
from lsam_jax.experiments.training import checkpoints, loggers, loop, run_directory, signals
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.progress import Progress
from lsam_jax.experiments.training.state import State, StepMetrics
from lsam_jax.experiments.training.step import Program, build

SURVIVAL = 0.9
"""Share of the perturbation below which a run warns."""

NOTHING = 0.01
"""Share of the loss by which it must rise for a perturbation to have any effect."""


def train(
    config: Config,
    out: files.PathLike,
    *,
    resume: bool = False,
    checkpoint_every: int | None = None,
    data_dir: files.PathLike | None = None,
    weights: files.PathLike | None = None,
    log: Sequence[str] | None = None,
    devices: int | None = None,
    program: Program | None = None,
    terminal: TextIO | None = None,
) -> loop.Result:
    """Trains in a directory: `fit` with checkpoints, metrics, a progress bar and clean stops.

    In several processes (`jax.distributed`) all must call it alike; the first of them writes.

    Args:
        config: What to run.
        out: The directory of the run.
        resume: Whether to go on with the run that is there, if there is one.
        checkpoint_every: Steps between checkpoints, besides those after every epoch.
        data_dir: Where TFDS keeps prepared data; None for its default.
        weights: The checkpoint of a pretrained backbone, for a model that has one.
        log: Where metrics go besides JSON lines, see `loggers.open_sinks`.
        devices: On how many, see `devices.layout`.
        program: What `build` made of the same configuration with any seed and the same arguments,
            so that runs that differ in the seed alone compile once.
        terminal: Where progress is shown; None for standard error.

    Returns:
        The finished run.

    Raises:
        OSError, ValueError: For what the user can put right, before anything is trained.
        NonFiniteLossError, CheckpointError, LostError, Stopped: As `fit` does.
    """
    team = Team()
    with team.noticing_losses(), contextlib.ExitStack() as stack:
        origin = team.each(lambda: {} if weights is None else {"weights": _digest(weights)})
        count = team.each(lambda: layout(devices)).devices
        team.check_same(
            files.flat(config.to_json())
            | origin
            | {"checkpoint_every": checkpoint_every, "devices": count}
            | environment.packages()
        )
        options: dict[str, Any] = {"resume": resume, "every": checkpoint_every, "origin": origin}
        run = stack.enter_context(run_directory.Run(out, config, devices=count, **options))
        name = f"{config.model} on {config.data}, {config.method}, seed {config.seed}"
        sinks = team.first(lambda: _prepare(run, log, name, stack)) or []
        built = program or team.each(
            lambda: build(config, data_dir=data_dir, weights=weights, devices=devices)
        )
        images = built.data.train, built.data.validation
        team.check_same({"data": checkpoints.digest(images)} if team.count > 1 else {})
        stop = stack.enter_context(signals.stop_requests())
        reporter = _Reporter(name, sinks, stop, stack, terminal)
        return loop.fit(config, program=built, run=run, watcher=reporter)


def _prepare(
    run: run_directory.Run, log: Sequence[str] | None, name: str, stack: contextlib.ExitStack
) -> Sequence[loggers.Sink]:
    """Says what has changed since a run began, and opens the sinks, which `stack` closes."""
    try:
        changes = run.environment_changes()
    except ValueError as error:  # a run needs nothing of it
        changes, file = {}, run.directory / files.ENVIRONMENT
        print(
            f"note: {str(file)!r} cannot be read ({error.__cause__}), so what has changed since "
            "this run began is not known",
            file=sys.stderr,
        )
    for what, (before, now) in changes.items():
        print(
            f"note: this run began with {what} {before}, now it is {now}; its last digits may "
            "differ from those of an unbroken run",
            file=sys.stderr,
        )
    sinks = loggers.open_sinks(log, run.directory, run.config.to_json(), name)
    for sink in sinks:
        stack.callback(sink.close)
    return sinks


@dataclasses.dataclass
class _Reporter(loop.Watcher):
    """Shows a run, hands its metrics to the sinks, and passes on that it should stop."""

    name: str
    sinks: Sequence[loggers.Sink]
    asked: signals.Stop
    stack: contextlib.ExitStack
    terminal: TextIO | None
    progress: Progress | None = None
    warned: set[str] = dataclasses.field(default_factory=set)

    def start(self, program: Program, step: int, history: History) -> None:
        config = program.config
        self._steps, self._epochs = program.steps_per_epoch, config.epochs
        for sink in self.sinks:
            sink.start([history.record(epoch) for epoch in range(1, history.epochs + 1)])
        self.progress = Progress(
            self._epochs, self._steps, config.batch_size, step, self.name, self.terminal
        )
        self.stack.callback(self.progress.close)

    def step(self, metrics: StepMetrics) -> None:
        if self.progress is not None:
            self.progress.step(metrics)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.progress is None else self.progress.paused()

    def epoch(self, state: State, history: History, timing: dict[str, Any]) -> None:
        record = history.record(history.epochs)
        for sink in self.sinks:
            sink.epoch(record, timing)
        if self.progress is not None:
            self.progress.epoch(record)
        for kind, text in self._warnings(state, history):
            if kind not in self.warned:
                self.warned.add(kind)
                tqdm.write(f"warning: {text}", file=sys.stderr)

    def _warnings(self, state: State, history: History) -> Iterator[tuple[str, str]]:
        """What a perturbation may lack, each with its kind."""
        survival = history.perturbation_survival[-1]
        if survival < SURVIVAL:
            yield (
                "survival",
                f"{survival:.0%} of the perturbation survives rounding; a larger rho is needed for "
                "it to have its effect",
            )
        radius = state.sam.memory.radius
        if isinstance(radius, Following):
            if int(radius.at_bound) > self._steps:
                yield (
                    "bound",
                    f"the radius has been at its bound of {float(radius.rho):g} for more than an "
                    "epoch: the loss does not rise by as much as it should; see lsam.rise",
                )
            return
        rise, loss = np.abs(history.rise), np.abs(history.train_loss)
        is_over = history.epochs == self._epochs
        if is_over and np.any(history.rho) and np.all(rise < NOTHING * loss):
            yield (
                "nothing",
                f"the radius was too small to matter: along the perturbation the loss rose by "
                f"{np.max(rise / loss):.2%} at most. Try rise=0.1 in place of rho (0.3 where many "
                "labels are wrong), or a larger rho",
            )

    def stop(self) -> signal.Signals | None:
        return self.asked.signal


def _digest(weights: files.PathLike) -> str:
    """Of the bytes of a file, so that a run is not resumed with another one."""
    file = Path(weights)
    if not file.is_file():
        raise FileNotFoundError(f"weights={str(file)!r} is not a file; give the checkpoint's path")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
