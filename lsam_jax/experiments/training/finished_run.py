"""A finished run, taken up from its directory."""

from pathlib import Path
from typing import Any, NamedTuple

from lsam_jax.experiments.data.datasets import Dataset
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.files import CHECKPOINTS, PathLike
from lsam_jax.experiments.models import registry
from lsam_jax.experiments.training.checkpoints import Checkpoints
from lsam_jax.experiments.training.run_directory import configuration
from lsam_jax.experiments.training.state import State
from lsam_jax.experiments.training.step import Program, build


class Finished(NamedTuple):
    """A run that has taken all of its steps.

    Args:
        directory: Where it is.
        program: What it ran.
        start: The parameters that it began with.
        state: That of its last checkpoint.
        train: What it was trained on, with the labels that it was given.
    """

    directory: Path
    program: Program
    start: Any
    state: State
    train: Split


def load(directory: PathLike, data: Dataset) -> Finished:
    """Reads a run; its directory stays as it is.

    Raises:
        ValueError: When there is no run, it is not finished, or its network has parts that were
            not trained.
        OSError: When the checkpoint cannot be read.
    """
    config = configuration(directory)
    if registry.preset(config.model).frozen is not None:
        raise ValueError(
            f"{str(directory)!r} trained part of {config.model}; only networks that are trained "
            "whole can be diagnosed"
        )
    program = build(config, data)
    state = last_state(directory, program)
    taken, steps = int(state.step), config.epochs * program.steps_per_epoch
    if taken < steps:
        raise ValueError(
            f"the run in {str(directory)!r} has taken {taken} of its {steps} steps; finish it with "
            "lsam-jax train --resume"
        )
    start = program.init(config.seed).params
    return Finished(Path(directory), program, start, state, program.train(config.seed))


def last_state(directory: PathLike, program: Program) -> State:
    """The state that a run saved last.

    Raises:
        ValueError: When there is none yet.
        OSError: When it cannot be read.
    """
    place, found = Path(directory) / CHECKPOINTS, None
    if place.is_dir():
        checkpoints = Checkpoints(place)
        found = checkpoints.restore(program.init(program.config.seed))
        checkpoints.close()
    if found is None:
        raise ValueError(f"{str(directory)!r} has no checkpoint yet")
    return found[0]
