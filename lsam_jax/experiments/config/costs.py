"""Counted cost of a step where it is not `lsam.Inspection.cost`; 1 is a plain gradient's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import lsam_jax as lsam


def inspect(tx: lsam.SamTransformation, loss_fn: Any, *args: Any) -> lsam.Inspection:
    """The network as a method sees it: its layers, its cuts, what it chooses among.

    The loss is ``(*args) -> (loss, aux)``, parameters first; shapes are enough.
    """
    return lsam.inspect(
        loss_fn,
        *args,
        layers=tx.method.layers,
        cuts=tx.method.cuts,
        k=max(1, tx.method.k or 1),
        selection=tx.method.selector,
        has_aux=True,
    )


def mean_over(selected: np.ndarray, cost: Callable[[np.ndarray], float]) -> float:
    """The mean cost of steps, of which each perturbed the layers in its row of bool[steps, L]."""
    kinds, steps = np.unique(selected, axis=0, return_counts=True)
    return float(np.average([cost(kind) for kind in kinds], weights=steps))


Options = Mapping[str, Any]
"""Of a method, by name."""


def some_samples(inspection: lsam.Inspection, names: Sequence[str], options: Options) -> float:
    """ESAM's: one pass to the selected layers, a forward pass from there, a gradient of a share."""
    return forward(inspection) + inspection.cost(names) - 1 + options["gamma"]


def drawn_alone(inspection: lsam.Inspection, names: Sequence[str], options: Options) -> float:
    """SL-SAM's: forward, and then twice the pass to the drawn layers, which alone descend."""
    again = 0.0
    if names:
        order = [layer.name for layer in inspection.layers]
        first = min(map(order.index, names))
        cut = max((p for p in map(order.index, inspection.cuts) if p <= first), default=first)
        again = float(inspection.profile.again[cut])
    return forward(inspection) + 2 * (inspection.cost(names) - 1) - again


def differences(inspection: lsam.Inspection, names: Sequence[str], options: Options) -> float:
    """AdaZo-SAM's: a gradient, and for the ascent a forward pass and two for each probe."""
    return 1 + (1 + 2 * options["probes"]) * forward(inspection)


def from_fresh_on(inspection: lsam.Inspection, names: Sequence[str], options: Options) -> float:
    """Stale SAM's: its ascent is of the step before, but from the layer on that is named."""
    if options.get("fresh") is None:
        return 1.0
    order = [row.name for row in inspection.layers]
    first = order.index(options["fresh"])
    return 1 + inspection.profile.of(np.arange(len(order)) >= first, first)


def forward(inspection: lsam.Inspection) -> float:
    """What of a plain gradient is not the backward pass."""
    return 1 - float(inspection.profile.spent.sum())
