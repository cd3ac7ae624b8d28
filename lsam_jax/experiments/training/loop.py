"""The training loop: one for every method."""

import contextlib
import dataclasses
import signal
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments.config import costs
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data.datasets import Dataset
from lsam_jax.experiments.distributed.process_group import Team
from lsam_jax.experiments.errors import Stopped
from lsam_jax.experiments.training import checkpoints, epoch_timer, run_directory
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.state import State, StepMetrics
from lsam_jax.experiments.training.step import Program, build

AHEAD = 2
"""Steps that are handed to the device before the first of them is waited for."""


class NonFiniteLossError(FloatingPointError):
    """A training loss was infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        config: What was run.
        history: What every epoch recorded.
        state: The last state.
    """

    config: Config
    history: History
    state: State


class Watcher:
    """What looks on while a run goes; this one does nothing, and subclasses do.

    In several processes it looks on in the first of them; `stop` and `evaluating` are asked in all.
    """

    def start(self, program: Program, step: int, history: History) -> None:
        """Before the first step; a resumed run has steps and a history behind it."""

    def step(self, metrics: StepMetrics) -> None:
        """After each step, whose arrays the device may still be computing."""

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Around what is done between epochs."""
        return contextlib.nullcontext()

    def epoch(self, state: State, history: History, timing: dict[str, Any]) -> None:
        """After each epoch; copy what should stay of the state, whose arrays are donated next."""

    def stop(self) -> signal.Signals | None:
        """The signal that asks the run to stop, if one has come."""
        return None


def fit(
    config: Config,
    data: Dataset | None = None,
    *,
    program: Program | None = None,
    run: run_directory.Run | None = None,
    watcher: Watcher | None = None,
    devices: int | None = None,
    prepare: Callable[[State], State] | None = None,
) -> Result:
    """Trains, and records every epoch. Same configuration, same result, bit for bit.

    Args:
        config: What to run.
        data: The data set; None loads the one that `config` names.
        program: What `build` made of the same configuration with any seed, so that runs that
            differ in the seed alone compile once.
        run: Where to save everything after every epoch, and to go on from; None saves nothing.
        watcher: What looks on.
        devices: As `build` takes them, where `program` is not given.
        prepare: What to do with the fresh state.

    Returns:
        The history and the last state.

    Raises:
        ValueError: When the configuration does not fit the data, the model or `program`.
        NonFiniteLossError: When a training loss is not finite.
        CheckpointError: When the state cannot be saved or restored.
        LostError: When another process of the run is gone.
        Stopped: When `watcher` asked for it, in any process; with a `run`, everything is saved.
    """
    program = build(config, data, devices=devices) if program is None else program
    if dataclasses.replace(program.config, seed=config.seed) != config:
        raise ValueError(f"program was built for {program.config}, which differs from {config}")
    watcher = Watcher() if watcher is None else watcher
    state, history = program.init(config.seed), History(program.layers)
    state = state if prepare is None else prepare(state)
    if run is not None:
        state, history = run.restore(state, history)
    team = Team()
    with team.noticing_losses():
        team.meet()
        if team.count > 1:
            state = checkpoints.to_device(team.spread(checkpoints.to_host(state)), state)
        state = program.layout.everywhere(state)
        team.first(partial(watcher.start, program, int(state.step), history))
        loop = _Loop(config, program, run, watcher, team)
        while history.epochs < config.epochs:
            state = loop.epoch(state, history)
    return Result(config, history, state)


@dataclasses.dataclass
class _Loop:
    """Epochs of one run."""

    config: Config
    program: Program
    run: run_directory.Run | None
    watcher: Watcher
    team: Team

    def __post_init__(self) -> None:
        self.batches = self.program.batches(self.config.seed)
        self.clock = epoch_timer.EpochClock()
        self.pending: deque[tuple[int, StepMetrics]] = deque()

    def epoch(self, state: State, history: History) -> State:
        """What is left of an epoch, and its record."""
        program, clock = self.program, self.clock
        first, last = int(state.step), (history.epochs + 1) * program.steps_per_epoch
        with clock.training():
            for step in range(first, last):
                batch = self.batches[step]
                with clock.waiting():
                    state, metrics = program.step(state, batch)
                    self.pending.append((step, metrics))
                    self._catch_up(AHEAD)
                if self.team.is_first:
                    self.watcher.step(metrics)
                self._between_steps(state, history, step + 1, last)
            with clock.waiting():
                self._catch_up(0)
        with clock.evaluation(), self.watcher.evaluating():
            _record(program, history, state, self.config.seed)
        timing = clock.read(history.epochs, (last - first) * self.config.batch_size)
        self.team.first(partial(self.watcher.epoch, state, history, timing))
        if self.run is not None:
            with self.watcher.evaluating():
                self.run.save(state, history)
        if history.epochs < self.config.epochs:
            self._stop_if(self._asked(), last)
        return state

    def _between_steps(self, state: State, history: History, step: int, last: int) -> None:
        """Saves and stops within an epoch; its end has its own place for that."""
        if step == last:
            return
        asked = self._asked()
        if self.run is not None and (asked is not None or self.run.due(step)):
            self._catch_up(0)
            self.run.save(state, history)
        self._stop_if(asked, step)

    def _asked(self) -> signal.Signals | None:
        """The signal that any process was sent, of which all learn after the same step."""
        number = self.team.agree(self.watcher.stop() or 0, AHEAD)
        return signal.Signals(number) if number else None

    def _stop_if(self, asked: signal.Signals | None, step: int) -> None:
        if asked is not None:
            saved = "nothing was saved" if self.run is None else "everything is saved"
            raise Stopped(f"stopped by {asked.name} after step {step}; {saved}", asked)

    def _catch_up(self, ahead: int) -> None:
        """Waits until so many steps are under way at most, and looks at their losses."""
        while len(self.pending) > ahead:
            step, metrics = self.pending.popleft()
            loss = np.asarray(metrics.loss)
            if not np.isfinite(loss):
                config, run = self.config, self.run
                rho = dict(config.options).get("rho")
                radius = "" if rho is None else f" or rho={rho}"
                good = "" if run is None else f"; {run.last_good()}"
                raise NonFiniteLossError(
                    f"the training loss of {config.method} with seed {config.seed} is {loss} at "
                    f"step {step}; lower learning_rate={config.learning_rate}{radius}{good}"
                )


def _record(program: Program, history: History, state: State, seed: int) -> None:
    """Evaluates the state, and appends an epoch to the history."""
    record = {name: np.asarray(x) for name, x in state.record._asdict().items()}
    selected = record.pop("selected")
    means = {name: x.astype(np.float64).mean() for name, x in record.items()}
    names = lsam.layer_names(state.params, program.method.layers)
    chosen = dict(zip(names, selected.T, strict=True))
    total = dict(zip(names, np.asarray(state.sam.perturbations).tolist(), strict=True))
    size_of = {layer.name: layer.parameters for layer in program.inspection.layers}
    sizes = np.array([size_of[name] for name in names])
    never = np.zeros(len(selected), bool)

    def cost(row: np.ndarray) -> float:
        some = [name for name, one in zip(names, row, strict=True) if one]
        return program.method.price(program.inspection, some)

    validation_loss, validation_accuracy = program.evaluate(program.data.validation, state)
    probe = program.probe(state, seed)
    survival = program.method.survival(state.params, probe.gradient, state.sam)
    history.append(
        step=int(state.step),
        train_loss=means.pop("loss"),
        train_accuracy=means.pop("accuracy"),
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        gradient_norm=probe.norm,
        layer_norms=[probe.norms[name] for name in program.layers],
        perturbations=[total.get(name, 0) for name in program.layers],
        perturbation_survival=float(survival),
        cost=costs.mean_over(selected, cost),
        perturbed_parameters=selected.mean(axis=0) @ sizes / sum(program.sizes.values()),
        perturbed_layers=np.mean([chosen.get(name, never) for name in program.layers]),
        **means,
    )
