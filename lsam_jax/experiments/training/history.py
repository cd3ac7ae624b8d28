"""What a run records after every epoch."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass
class History:
    """One entry for each epoch, L entries for the kernels in network order.

    Gradient norms are of the plain training loss at the epoch's last weights, on the same
    training images with the same labels every time, whatever the method: they compare methods,
    which the norms of the directions that the methods descend would not.

    Attributes:
        layers: Names of the L kernels.
        step: Steps taken so far.
        train_loss: Mean over the epoch's steps, of the weights before each step; of the perturbed
            ones where a method has no clean pass of the whole batch (`ascent_batch`, stale).
        train_accuracy: Likewise, of the training batches as they were trained on.
        validation_loss: Cross-entropy on the validation split, without label smoothing.
        validation_accuracy: Share of the validation split.
        gradient_norm: Over all trained parameters.
        layer_norms: [L] in each epoch.
        perturbations: [L] in each epoch: how often each kernel has been perturbed so far.
        sharpness: Perturbed minus clean loss, mean over the epoch's steps.
        rho: The radius, likewise; 0 of a method that perturbs nothing.
        rise: Of the loss of the batch that is descended, along the perturbation, likewise; see
            `lsam.SamState`.
        perturbation_survival: Share of the perturbation that is not rounded away by the type of
            the parameters, for the layers of the epoch's last step
            (`lsam.perturbation_survival`); 1 where they are float32.
        cost: Of a gradient relative to a plain one, counted in floating-point operations, for the
            layers that each step perturbed (`lsam.Inspection.cost`); mean over the epoch.
        perturbed_parameters: Share of the parameters that a step perturbed, mean over the epoch.
        perturbed_layers: Share of the kernels, likewise.
    """

    layers: tuple[str, ...]
    step: list[int] = dataclasses.field(default_factory=list)
    train_loss: list[float] = dataclasses.field(default_factory=list)
    train_accuracy: list[float] = dataclasses.field(default_factory=list)
    validation_loss: list[float] = dataclasses.field(default_factory=list)
    validation_accuracy: list[float] = dataclasses.field(default_factory=list)
    gradient_norm: list[float] = dataclasses.field(default_factory=list)
    layer_norms: list[list[float]] = dataclasses.field(default_factory=list)
    perturbations: list[list[int]] = dataclasses.field(default_factory=list)
    sharpness: list[float] = dataclasses.field(default_factory=list)
    rho: list[float] = dataclasses.field(default_factory=list)
    rise: list[float] = dataclasses.field(default_factory=list)
    perturbation_survival: list[float] = dataclasses.field(default_factory=list)
    cost: list[float] = dataclasses.field(default_factory=list)
    perturbed_parameters: list[float] = dataclasses.field(default_factory=list)
    perturbed_layers: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "History":
        """What `to_json` made a dictionary of; NaN for what was not recorded then."""
        unknown = {name: [math.nan] * len(values["step"]) for name in _per_epoch()}
        return cls(**{**unknown, **values, "layers": tuple(values["layers"])})

    def append(self, **values: Any) -> None:
        """Adds one epoch; every field but `layers` must be given."""
        fields = _per_epoch()
        if sorted(values) != sorted(fields):
            raise TypeError(f"an epoch has the fields {fields}, got {sorted(values)}")
        for name in fields:
            getattr(self, name).append(np.asarray(values[name]).tolist())

    def to_json(self) -> dict[str, Any]:
        """The history as JSON can hold it."""
        return dataclasses.asdict(self)

    @property
    def epochs(self) -> int:
        """How many there are."""
        return len(self.step)

    def record(self, epoch: int) -> dict[str, Any]:
        """An epoch, from 1, as a dictionary; what each layer has is one by its name."""
        entry: dict[str, Any] = {"epoch": epoch}
        for name in _per_epoch():
            value = getattr(self, name)[epoch - 1]
            by_layer = isinstance(value, Sequence)
            entry[name] = dict(zip(self.layers, value, strict=True)) if by_layer else value
        return entry


def _per_epoch() -> list[str]:
    return [field.name for field in dataclasses.fields(History) if field.name != "layers"]
