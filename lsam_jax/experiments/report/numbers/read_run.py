"""The directory of a run, read back without its checkpoints."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsam_jax.experiments import files
from lsam_jax.experiments.config.methods import in_todays_names
from lsam_jax.experiments.study.sharpness_file import lacking

_JUDGED = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
NUMBERS = ("step", *_JUDGED, "gradient_norm", "cost")
SINCE = ("rho", "rise")
"""Numbers that older runs do not have."""
_KINDS = {"method": str, "seed": int, "epochs": int, "format": int, "options": dict}
BY_LAYER = ("layer_norms", "perturbations")


class UnreadableError(ValueError):
    """A file of a run is not what it should be; the message is the reason, without the run."""


class Landscapes(NamedTuple):
    """The loss around one network.

    Attributes:
        steps: [P], in lengths of a direction.
        layers: [N], names.
        loss: [N, P, P], with one layer moved.
        model_steps: [Q], likewise for the whole model, filter-normalised.
        model_loss: [Q, Q].
    """

    steps: np.ndarray
    layers: tuple[str, ...]
    loss: np.ndarray
    model_steps: np.ndarray
    model_loss: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedRun:
    """What a run recorded.

    Attributes:
        name: Its directory, as seen from that of the report.
        config: As JSON holds it; a dictionary, so that runs of other versions can be read too.
        layers: Names of the L layers in network order.
        numbers: [E] by name, an entry for each recorded epoch; NaN for one of `SINCE` that it
            lacks.
        by_layer: [E, L] by name.
        environment: Empty where there is none.
        sharpness: What `lsam-jax diagnose` found, if it was run.
        landscapes: Likewise.
        spoilt: Why one of these three could not be read.
    """

    name: str
    config: Mapping[str, Any]
    layers: tuple[str, ...]
    numbers: Mapping[str, np.ndarray]
    by_layer: Mapping[str, np.ndarray]
    environment: Mapping[str, Any]
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


def read_run(directory: Path, name: str) -> RecordedRun:
    """Reads a run.

    Raises:
        UnreadableError: When the configuration or the metrics cannot be understood.
    """
    config = _config(directory / files.CONFIG)
    records = _records(directory / files.METRICS)
    layers = tuple(records[0]["layer_norms"]) if records else ()
    numbers = {key: np.array([record[key] for record in records]) for key in (*NUMBERS, *SINCE)}
    by_layer = {
        key: np.array([[record[key][layer] for layer in layers] for record in records])
        for key in BY_LAYER
    }
    found: dict[str, Any] = {"environment": {}}
    spoilt: list[str] = []
    for key, file_name, reader in (
        ("environment", files.ENVIRONMENT, _json),
        ("sharpness", files.SHARPNESS, partial(_sharpness, layers)),
        ("landscapes", files.LANDSCAPES, _landscapes),
    ):
        if (directory / file_name).exists():
            try:
                found[key] = reader(directory / file_name)
            except UnreadableError as error:
                spoilt.append(str(error))
    return RecordedRun(name, config, layers, numbers, by_layer, **found, spoilt=tuple(spoilt))


def _config(file: Path) -> dict[str, Any]:
    found = _json(file)
    config = found.get("config")
    if not isinstance(config, dict) or not all(
        isinstance({"format": 1, "options": {}, **config}.get(name), kind)
        for name, kind in _KINDS.items()
    ):
        raise UnreadableError(f"{file.name} is not the configuration of a run")
    return in_todays_names(config)


def _records(file: Path) -> list[dict[str, Any]]:
    """Each with numbers alone, NaN where JSON has none."""
    records: list[dict[str, Any]] = []
    try:
        lines = file.read_bytes().splitlines() if file.exists() else []
    except OSError as error:
        raise UnreadableError(f"{file.name} cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, start=1):
        where = f"line {number} of {file.name}"
        try:
            record = dict(json.loads(line))
            missing = [key for key in (*NUMBERS, *BY_LAYER) if key not in record]
            found: dict[str, Any] = {
                key: files.number(record.get(key)) for key in (*NUMBERS, *SINCE)
            }
            found |= {
                key: {layer: files.number(x) for layer, x in record[key].items()}
                for key in BY_LAYER
                if key in record
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise UnreadableError(f"{where} is not a record") from error
        if missing:
            raise UnreadableError(f"{where} lacks {', '.join(missing)}")
        if record.get("epoch") != number:
            raise UnreadableError(f"{where} is not of epoch {number}")
        records.append(found)
        if any(found[key].keys() != records[0]["layer_norms"].keys() for key in BY_LAYER):
            raise UnreadableError(f"{where} has other layers than the first")
    return records


def _sharpness(layers: Sequence[str], file: Path) -> dict[str, Any]:
    found = _json(file)
    if missing := lacking(found, layers):
        raise UnreadableError(f"{file.name} lacks {', '.join(missing)}")
    return found


def _landscapes(file: Path) -> Landscapes:
    try:
        with np.load(file) as arrays:
            there = {name: arrays[name] for name in Landscapes._fields}
            found = Landscapes(**there | {"layers": tuple(map(str, there["layers"]))})
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UnreadableError(f"{file.name} cannot be read") from error
    if found.loss.shape != (len(found.layers), len(found.steps), len(found.steps)):
        raise UnreadableError(f"{file.name} has losses of shape {found.loss.shape}")
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        return files.read_json(file) or {}
    except ValueError as error:
        raise UnreadableError(f"{file.name} cannot be read ({error.__cause__})") from error
