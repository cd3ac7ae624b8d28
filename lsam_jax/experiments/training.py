"""The training loop: one for every method."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import data as datasets
from lsam_jax.experiments.config import Config
from lsam_jax.experiments.data import Dataset
from lsam_jax.experiments.history import History
from lsam_jax.experiments.step import Program, State, build


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


def fit(
    config: Config,
    data: Dataset | None = None,
    *,
    program: Program | None = None,
    on_epoch: Callable[[int, History, State], None] | None = None,
) -> Result:
    """Trains, and records every epoch. Same configuration, same result, bit for bit.

    Args:
        config: What to run.
        data: The data set; None loads the one that `config` names.
        program: What `build` made of the same configuration with any seed, so that runs that
            differ in the seed alone compile once.
        on_epoch: Called after every epoch with its number (from 1), the history so far and the
            state, whose arrays the next step donates: copy what should stay.

    Returns:
        The history and the last state.

    Raises:
        ValueError: When the configuration does not fit the data, the model or `program`.
        NonFiniteLossError: When a training loss is not finite.
    """
    program = build(config, data) if program is None else program
    if dataclasses.replace(program.config, seed=config.seed) != config:
        raise ValueError(f"program was built for {program.config}, which differs from {config}")
    state = program.init(config.seed)
    history = History(program.layers)
    order = jax.random.key(config.seed)
    counted = np.zeros(state.sam.perturbations.shape, np.int64)
    for epoch in range(1, config.epochs + 1):
        metrics = []
        batches = datasets.batches(
            program.data.train, config.batch_size, jax.random.fold_in(order, epoch)
        )
        for batch in batches:
            state, reported = program.step(state, batch)
            metrics.append(reported)
        loss, sharpness = (np.asarray(jnp.stack(column)) for column in zip(*metrics, strict=True))
        _check_finite(loss, first_step=(epoch - 1) * len(loss), config=config)
        before, counted = counted, np.asarray(state.sam.perturbations, np.int64)
        _record(program, history, state, loss, sharpness, counted - before)
        if on_epoch is not None:
            on_epoch(epoch, history, state)
    return Result(config, history, state)


def _check_finite(loss: np.ndarray, first_step: int, config: Config) -> None:
    """Stops a run that went wrong; the losses are those of one epoch."""
    wrong = np.flatnonzero(~np.isfinite(loss))
    if wrong.size:
        raise NonFiniteLossError(
            f"the training loss of {config.method} with seed {config.seed} is {loss[wrong[0]]} at "
            f"step {first_step + wrong[0]}; lower learning_rate={config.learning_rate} or "
            f"rho={config.rho}"
        )


def _record(
    program: Program,
    history: History,
    state: State,
    loss: np.ndarray,
    sharpness: np.ndarray,
    perturbed: np.ndarray,
) -> None:
    """Evaluates the state and appends an epoch; `perturbed` counts this epoch's steps."""
    names = lsam.layer_names(state.params, program.method.layers)
    total = dict(zip(names, np.asarray(state.sam.perturbations).tolist(), strict=True))
    recent = dict(zip(names, perturbed.tolist(), strict=True))
    steps = len(loss)
    validation_loss, validation_accuracy = program.evaluate(state.params, state.batch_stats)
    norm, norms = program.probe(state.params, state.batch_stats)
    parameters = sum(recent[name] * program.sizes[name] for name in names)
    history.append(
        train_loss=loss.mean(),
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        gradient_norm=norm,
        layer_norms=[norms[name] for name in program.layers],
        perturbations=[total[name] for name in program.layers],
        sharpness=sharpness.mean(),
        perturbed_parameters=parameters / (steps * sum(program.sizes.values())),
        perturbed_layers=sum(recent[n] for n in program.layers) / (steps * len(program.layers)),
    )
