"""The directory of a run, read back without its checkpoints."""

import dataclasses
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsam_jax.experiments.run import CONFIG, ENVIRONMENT, METRICS

SHARPNESS, LANDSCAPES = "sharpness.json", "landscapes.npz"
NUMBERS = (
    "step",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "gradient_norm",
    "cost",
)
BY_LAYER = ("layer_norms", "perturbations")


class UnreadableError(ValueError):
    """A file of a run is not what it should be; the message is the reason, without the run."""


class Landscapes(NamedTuple):
    """The loss around one network.

    Attributes:
        steps: [P], in lengths of a direction.
        layers: [N], names.
        loss: [N, P, P], with one layer moved.
        model_steps: [Q], likewise for the whole model, filter-normalised; None where it is not
            there.
        model_loss: [Q, Q].
    """

    steps: np.ndarray
    layers: tuple[str, ...]
    loss: np.ndarray
    model_steps: np.ndarray | None
    model_loss: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a run recorded.

    Attributes:
        name: Its directory, as seen from that of the report.
        config: As JSON holds it; a dictionary, so that runs of other versions can be read too.
        environment: Empty where there is none.
        layers: Names of the L layers in network order.
        numbers: [E] by name, an entry for each recorded epoch.
        by_layer: [E, L] by name.
        sharpness: What `lsam-jax diagnose` found, if it was run.
        landscapes: Likewise.
        spoilt: Why one of these two could not be read.
    """

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    layers: tuple[str, ...]
    numbers: Mapping[str, np.ndarray]
    by_layer: Mapping[str, np.ndarray]
    sharpness: Mapping[str, Any] | None = None
    landscapes: Landscapes | None = None
    spoilt: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.config["seed"])

    @property
    def epochs(self) -> int:
        """How many are recorded."""
        return len(self.numbers["step"])

    @property
    def is_finished(self) -> bool:
        """Whether all epochs that were asked for are recorded."""
        return self.epochs >= int(self.config["epochs"])

    @property
    def passes(self) -> np.ndarray:
        """[E], passes over the training images after each recorded epoch."""
        return np.arange(1, self.epochs + 1) * passes_of_epoch(self.config)

    @property
    def gradients(self) -> np.ndarray:
        """[E], cost so far, counted in plain gradients."""
        steps = np.diff(self.numbers["step"], prepend=0)
        return np.cumsum(self.numbers["cost"] * steps)

    def last(self, name: str) -> float:
        """A number of the last epoch."""
        return float(self.numbers[name][-1])


def passes_of_epoch(config: Mapping[str, Any]) -> int:
    """How often an epoch goes over the training images."""
    return int(config.get("passes", 1))


def read_run(directory: Path, name: str) -> Run:
    """Reads a run.

    Args:
        directory: That holds ``config.json``.
        name: What the report calls it.

    Raises:
        UnreadableError: When the configuration or the metrics cannot be understood.
    """
    config = _config(directory / CONFIG)
    records = _records(directory / METRICS)
    layers = tuple(records[0]["layer_norms"]) if records else ()
    numbers = {key: _array([record[key] for record in records]) for key in NUMBERS}
    by_layer = {
        key: _array([[record[key][layer] for layer in layers] for record in records])
        for key in BY_LAYER
    }
    file = directory / ENVIRONMENT
    environment = _json(file) if file.exists() else {}
    found: dict[str, Any] = {}
    spoilt: list[str] = []
    for key, file_name, reader in (
        ("sharpness", SHARPNESS, _sharpness),
        ("landscapes", LANDSCAPES, _landscapes),
    ):
        if (directory / file_name).exists():
            try:
                found[key] = reader(directory / file_name)
            except UnreadableError as error:
                spoilt.append(str(error))
    return Run(name, config, environment, layers, numbers, by_layer, **found, spoilt=tuple(spoilt))


def _config(file: Path) -> dict[str, Any]:
    found = _json(file)
    config = found.get("config")
    if not isinstance(config, dict) or not {"method", "seed", "epochs"} <= config.keys():
        raise UnreadableError(f"{file.name} is not the configuration of a run")
    return config


def _records(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            missing = [key for key in (*NUMBERS, *BY_LAYER) if key not in record]
            layers = record["layer_norms"].keys() if not missing else ()
        except (ValueError, TypeError, AttributeError) as error:
            raise UnreadableError(f"line {number} of {file.name} is not a record") from error
        if missing:
            raise UnreadableError(f"line {number} of {file.name} lacks {', '.join(missing)}")
        if record.get("epoch") != number:
            raise UnreadableError(f"line {number} of {file.name} is not of epoch {number}")
        if records and layers != records[0]["layer_norms"].keys():
            raise UnreadableError(f"line {number} of {file.name} has other layers than the first")
        records.append(record)
    return records


def _array(values: list[Any]) -> np.ndarray:
    """Numbers, where what JSON has no number for is not one."""
    return np.array(
        [[_number(x) for x in value] if isinstance(value, list) else _number(value)
         for value in values]
    )  # fmt: skip


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _sharpness(file: Path) -> dict[str, Any]:
    found = _json(file)
    missing = [k for k in ("rho", "ball", "top_eigenvalue", "trace", "layers") if k not in found]
    if missing:
        raise UnreadableError(f"{file.name} lacks {', '.join(missing)}")
    return found


def _landscapes(file: Path) -> Landscapes:
    try:
        with np.load(file) as arrays:
            has_model = "model_loss" in arrays
            return Landscapes(
                arrays["steps"],
                tuple(str(name) for name in arrays["layers"]),
                arrays["loss"],
                arrays["model_steps"] if has_model else None,
                arrays["model_loss"] if has_model else None,
            )
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UnreadableError(f"{file.name} cannot be read") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UnreadableError(f"{file.name} is not JSON") from error
    if not isinstance(found, dict):
        raise UnreadableError(f"{file.name} is not a dictionary")
    return found
