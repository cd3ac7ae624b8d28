"""What runs went through, by passes over the training images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lsam_jax.experiments import plotting
from lsam_jax.experiments.report.numbers.groups import Group, seeds_text
from lsam_jax.experiments.report.numbers.read_run import RecordedRun
from lsam_jax.experiments.report.page import Figure
from lsam_jax.experiments.statistics import listed

ZOOM = 2 / 3
"""Where the panel of the end of the runs begins, as a share of them."""
LEAST = 3
"""Evaluations in that panel, if there are so many."""
ACCURACY = "validation_accuracy", "validation accuracy (%)"
OTHERS = 5
"""Methods in a panel, besides the baseline."""
Style: TypeAlias = Mapping[str, Any]
"""Of a line, as matplotlib takes it; colour and dashes each tell methods apart."""
STYLES: list[Style] = [
    {"color": colour, "linestyle": line}
    for colour, line in zip(plotting.COLOURS, plotting.LINES[1:], strict=False)
]


def learning(groups: Sequence[Group], name: str) -> Figure:
    """Training loss and validation accuracy: the paper's Figure 3.

    Args:
        groups: Runs of several lengths are drawn by their share of the whole run.
        name: Of the figure.
    """
    numbers = [("train_loss", "training loss", 0.0), (*ACCURACY, 0.0), (*ACCURACY, ZOOM)]
    drawn = _Curves(groups, numbers, (11, 3.5, 0.3), sharey="col")
    titles = "Training loss", "Validation accuracy", "The same, end of the run"
    for place, title in zip(drawn.places[0], titles, strict=True):
        place.set_title(title, fontsize=11)
    return drawn.figure(
        name,
        "training loss and validation accuracy",
        f"Training loss (log scale; mean over the batches as they were trained on) and validation "
        f"accuracy, {seeds_text(groups)}; as the paper's Figure 3.{drawn.repeats}",
    )


def gradient_norms(groups: Sequence[Group], name: str) -> Figure:
    """Norm of the whole model's gradient: the paper's Figure 4."""
    number = "gradient_norm", "norm of the training loss's gradient", 0.0
    drawn = _Curves(groups, [number], (5.6, 3.9, 0), across=True, sharey=True)
    return drawn.figure(
        name,
        "the gradient norm",
        "Norm of the plain training loss's gradient over all parameters, on the same training "
        f"images for all methods (log scale), {seeds_text(groups)}; as the paper's Figure 4."
        f"{drawn.repeats}",
    )


def radii(groups: Sequence[Group], name: str) -> Figure | None:
    """The radius, and by how much it makes the loss rise; None if no run perturbs or says so."""
    told = [of for of in groups if all(np.any(run.numbers["rho"] > 0) for run in of.runs)]
    if not told:
        return None
    numbers = [("rho", "radius", 0.0), ("rise", "rise of the loss along it", 0.0)]
    return _Curves(told, numbers, (9, 3.5, 0.3), sharex=True).figure(
        name,
        "the radius, and of the rise of the loss,",
        "The radius of the perturbation, and by how much the loss of the batch rises along it "
        f"(log scales, means of the epochs), {seeds_text(told)}.",
    )


Axis = Callable[[RecordedRun], np.ndarray]
"""What the curves of a run are drawn by."""


def by_panel(groups: Sequence[Group]) -> list[list[tuple[Group, Style]]]:
    """A few methods each, with the first run of SGD, if there is one, in all of them."""
    first = next((group for group in groups if group.is_sgd), None)
    rest = [group for group in groups if group is not first]
    base = [] if first is None else [(first, {"color": plotting.BASELINE, "linestyle": "-"})]
    chunks = [rest[i : i + OTHERS] for i in range(0, len(rest), OTHERS)] or [[]]
    return [[*base, *zip(chunk, STYLES, strict=False)] for chunk in chunks]


class _Curves:
    """A canvas with a row of places for a few methods each, one for each number.

    Args:
        groups: What is drawn.
        numbers: Names in a record, what the places call them, and as a share of the run where
            they begin.
        size: Width and height of a row, and what is added to the height of all.
        across: Whether rows, of one place, stand beside each other.
        **share: Of `matplotlib.figure.Figure.subplots`.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        numbers: Sequence[tuple[str, str, float]],
        size: tuple[float, float, float],
        across: bool = False,
        **share: Any,
    ):
        rows, (width, height, more) = by_panel(groups), size
        (self.label, of), self._groups = _axis(groups), groups
        self.repeats = " SGD is repeated in every panel." if len(rows) > 1 else ""
        columns = len(rows) if across else len(numbers)
        each = (width, height) if across else (width / columns, height)
        count = len(rows) * len(numbers)
        self._canvas, found = plotting.panels(count, columns, each, (0, more), **share)
        self.places = found.reshape(len(rows), len(numbers))
        for places, row in zip(self.places, rows, strict=True):
            for place, (number, label, begin) in zip(places, numbers, strict=True):
                for group, style in row:
                    x = of(group.runs[0])
                    first = min(int((x < begin * x[-1]).sum()), max(0, len(x) - LEAST))
                    values = np.array([_values(run, number)[first:] for run in group.runs])
                    plotting.curve(place, x[first:], values, label=group.label, lw=1.5, **style)
                if number != ACCURACY[0]:
                    plotting.logarithmic(place)
                place.set(xlabel=self.label, ylabel=label)
                plotting.open_frame(place, grid="y")
            places[0].legend(fontsize=8)

    def figure(self, name: str, what: str, caption: str) -> Figure:
        """The picture of what is shown."""
        shown = listed([group.label for group in self._groups])
        alt = f"Curves of {what} by {self.label}, for {shown}."
        return Figure(name, plotting.png(self._canvas), alt, caption)


def _axis(groups: Sequence[Group]) -> tuple[str, Axis]:
    """Passes; of runs of several lengths the share of the run, where their schedules agree."""
    if len({group.passes for group in groups}) == 1:
        return "passes over the training images", lambda run: run.passes
    return "share of the whole run (%)", lambda run: 100 * run.passes / run.passes[-1]


def _values(run: RecordedRun, number: str) -> np.ndarray:
    return run.numbers[number] * (100 if number == ACCURACY[0] else 1)
