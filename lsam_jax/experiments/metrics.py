"""Which sinks take the metrics of a run."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lsam_jax.experiments.sinks import JsonLines, Record, TensorBoard, WandB

SINKS = ("json", "tensorboard", "wandb")
PROJECT = "lsam-jax"


class Sink(Protocol):
    """What takes the metrics of a run; `JsonLines`, `TensorBoard` and `WandB` are such."""

    def start(self, records: Sequence[Record]) -> None:
        """Makes ready for the epoch after the restored ones: `records`, none in a new run."""

    def epoch(self, record: Record, timing: Record) -> None:
        """Takes an epoch.

        Args:
            record: What it found: "epoch", "step" (optimizer steps so far), numbers, and
                dictionaries from a layer to its number.
            timing: How long it took: "epoch" and numbers.
        """

    def close(self) -> None:
        """Lets go of files and connections; also after an error, and without a start."""


def open_sinks(
    names: Sequence[str] | None,
    directory: str | os.PathLike,
    config: Record,
    run_name: str,
) -> list[Sink]:
    """Makes the sinks of a run; nothing is written before their start.

    Args:
        names: Out of `SINKS`; "json" is always there. None adds "tensorboard" where tensorboardX
            is installed, and never "wandb", which may send what it gets.
        directory: The run's, which exists.
        config: What was run, for W&B; JSON can hold it.
        run_name: What W&B calls the run.

    Raises:
        ValueError: When a name is not known.
        ModuleNotFoundError: When the package of a sink is not installed; it is the error's name.
    """
    if names is None:
        names = ("tensorboard",) if importlib.util.find_spec("tensorboardX") else ()
    for name in names:
        if name not in SINKS:
            raise ValueError(f"sink {name!r} is not known; choose from {', '.join(SINKS)}")
    directory = Path(directory)
    sinks: list[Sink] = [JsonLines(directory)]
    if "tensorboard" in names:
        sinks.append(TensorBoard(directory))
    if "wandb" in names:
        # An argument would override the user's own choice of a project.
        project = None if "WANDB_PROJECT" in os.environ else PROJECT
        sinks.append(WandB(directory, project, config, run_name))
    return sinks
