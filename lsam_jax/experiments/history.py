"""What a run records after every epoch."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class History:
    """One entry for each epoch, L entries for the kernels in network order.

    Gradient norms are of the plain training loss at the epoch's last weights, on the same
    training images every time, whatever the method: they compare methods, which the norms of
    the directions that the methods descend would not.

    Attributes:
        layers: Names of the L kernels.
        train_loss: Mean over the epoch's steps, of the weights before each step.
        validation_loss: Cross-entropy on the test split, without label smoothing.
        validation_accuracy: Share of the test split.
        gradient_norm: Over all parameters.
        layer_norms: [L] in each epoch.
        perturbations: [L] in each epoch: how often each kernel has been perturbed so far.
        sharpness: Perturbed minus clean loss, mean over the epoch's steps.
        perturbed_parameters: Share of the parameters that a step perturbed, mean over the epoch.
        perturbed_layers: Share of the kernels, likewise.
    """

    layers: tuple[str, ...]
    train_loss: list[float] = dataclasses.field(default_factory=list)
    validation_loss: list[float] = dataclasses.field(default_factory=list)
    validation_accuracy: list[float] = dataclasses.field(default_factory=list)
    gradient_norm: list[float] = dataclasses.field(default_factory=list)
    layer_norms: list[list[float]] = dataclasses.field(default_factory=list)
    perturbations: list[list[int]] = dataclasses.field(default_factory=list)
    sharpness: list[float] = dataclasses.field(default_factory=list)
    perturbed_parameters: list[float] = dataclasses.field(default_factory=list)
    perturbed_layers: list[float] = dataclasses.field(default_factory=list)

    def append(self, **values: Any) -> None:
        """Adds one epoch; every field but `layers` must be given."""
        fields = [field.name for field in dataclasses.fields(self) if field.name != "layers"]
        if sorted(values) != sorted(fields):
            raise TypeError(f"an epoch has the fields {fields}, got {sorted(values)}")
        for name in fields:
            getattr(self, name).append(np.asarray(values[name]).tolist())

    def to_json(self) -> dict[str, Any]:
        """The history as JSON can hold it."""
        return dataclasses.asdict(self)
