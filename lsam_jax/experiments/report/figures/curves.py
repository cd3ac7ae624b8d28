"""What runs went through, by passes over the training images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from lsam_jax.experiments.plotting import curve, logarithmic, open_frame
from lsam_jax.experiments.report.figures.drawing import PlotSeries, Style, panels, png, seeds_text
from lsam_jax.experiments.report.numbers.read_run import RecordedRun
from lsam_jax.experiments.report.page import Figure
from lsam_jax.experiments.statistics import listed

ZOOM = 2 / 3
"""Where the panel of the end of the runs begins, as a share of them."""
LEAST = 3
"""Evaluations in that panel, if there are so many."""


def learning(entries: Sequence[PlotSeries], name: str) -> Figure:
    """Training loss and validation accuracy: the paper's Figure 3.

    Args:
        entries: Runs of several lengths are drawn by their share of the whole run.
        name: Of the figure.
    """
    rows, axis = panels(entries), _axis(entries)
    canvas = Canvas(figsize=(11, 3.5 * len(rows) + 0.3), layout="constrained")
    for axes, row in zip(
        canvas.subplots(len(rows), 3, squeeze=False, sharey="col"), rows, strict=True
    ):
        for entry, style in row:
            _draw(axes[0], axis, entry, style, partial(_number, "train_loss"))
            for place in axes[1:]:
                _draw(place, axis, entry, style, _accuracy)
        logarithmic(axes[0])
        axes[0].set_ylabel("training loss")
        axes[1].set_ylabel("validation accuracy (%)")
        axes[2].set_ylabel("validation accuracy (%)")
        _zoom(axes[2], axis, entries)
        axes[0].legend(fontsize=8)
        for place in axes:
            _finish(place, axis)
    for place, title in zip(canvas.axes[:3], ("Training loss", "Validation accuracy",
                            "The same, end of the run"), strict=True):  # fmt: skip
        place.set_title(title, fontsize=11)
    shown = listed([entry.label for entry in entries])
    return Figure(
        name,
        png(canvas),
        f"Curves of training loss and validation accuracy by {axis.label}, for {shown}.",
        f"Training loss (log scale; mean over the batches as they were trained on) and validation "
        f"accuracy, {seeds_text(entries)}; as the paper's Figure 3.{_repeats(rows)}",
    )


def gradient_norms(entries: Sequence[PlotSeries], name: str) -> Figure:
    """Norm of the whole model's gradient: the paper's Figure 4."""
    rows, axis = panels(entries), _axis(entries)
    canvas = Canvas(figsize=(5.6 * len(rows), 3.9), layout="constrained")
    for axes, row in zip(
        canvas.subplots(1, len(rows), squeeze=False, sharey=True)[0], rows, strict=True
    ):
        for entry, style in row:
            _draw(axes, axis, entry, style, partial(_number, "gradient_norm"))
        logarithmic(axes)
        axes.set_ylabel("norm of the training loss's gradient")
        axes.legend(fontsize=8)
        _finish(axes, axis)
    shown = listed([entry.label for entry in entries])
    return Figure(
        name,
        png(canvas),
        f"Curves of the gradient norm by {axis.label}, for {shown}.",
        "Norm of the plain training loss's gradient over all parameters, on the same training "
        f"images for all methods (log scale), {seeds_text(entries)}; as the paper's Figure 4."
        f"{_repeats(rows)}",
    )


def radii(entries: Sequence[PlotSeries], name: str) -> Figure | None:
    """The radius, and by how much it makes the loss rise; None if no run perturbs or says so."""
    told = [e for e in entries if all(np.any(run.numbers["rho"] > 0) for run in e.group.runs)]
    if not told:
        return None
    rows, axis = panels(told), _axis(told)
    canvas = Canvas(figsize=(9, 3.5 * len(rows) + 0.3), layout="constrained")
    for places, row in zip(
        canvas.subplots(len(rows), 2, squeeze=False, sharex=True), rows, strict=True
    ):
        for axes, number, label in zip(
            places, ("rho", "rise"), ("radius", "rise of the loss along it"), strict=True
        ):
            for entry, style in row:
                _draw(axes, axis, entry, style, partial(_number, number))
            logarithmic(axes)
            axes.set_ylabel(label)
            _finish(axes, axis)
        places[0].legend(fontsize=8)
    shown = listed([entry.label for entry in told])
    return Figure(
        name,
        png(canvas),
        f"Curves of the radius, and of the rise of the loss, by {axis.label}, for {shown}.",
        "The radius of the perturbation, and by how much the loss of the batch rises along it "
        f"(log scales, means of the epochs), {seeds_text(told)}.",
    )


class _Axis(NamedTuple):
    """What curves are drawn by."""

    label: str
    of: Callable[[RecordedRun], np.ndarray]


def _axis(entries: Sequence[PlotSeries]) -> _Axis:
    """Passes; of runs of several lengths the share of the run, where their schedules agree."""
    if len({entry.group.passes for entry in entries}) == 1:
        return _Axis("passes over the training images", lambda run: run.passes)
    return _Axis("share of the whole run (%)", lambda run: 100 * run.passes / run.passes[-1])


def _accuracy(run: RecordedRun) -> np.ndarray:
    return 100 * run.numbers["validation_accuracy"]


def _number(name: str, run: RecordedRun) -> np.ndarray:
    return run.numbers[name]


def _draw(
    axes: Axes,
    axis: _Axis,
    entry: PlotSeries,
    style: Style,
    values: Callable[[RecordedRun], np.ndarray],
) -> None:
    runs = entry.group.runs
    curve(
        axes,
        axis.of(runs[0]),
        np.array([values(run) for run in runs]),
        color=style.color,
        linestyle=style.linestyle,
        label=entry.label,
        lw=1.5,
    )


def _zoom(axes: Axes, axis: _Axis, entries: Sequence[PlotSeries]) -> None:
    """Shows the end of the runs, at the height that it needs."""
    values = []
    start = end = 0.0
    for entry in entries:
        for run in entry.group.runs:
            x = axis.of(run)
            first = min(int((x < ZOOM * x[-1]).sum()), max(0, len(x) - LEAST))
            start, end = x[first], x[-1]
            kept = _accuracy(run)[first:]
            values.append(kept[np.isfinite(kept)])
    found = np.concatenate(values)
    if len(found) and end > start:
        room = 0.05 * (found.max() - found.min()) + 0.05
        axes.set_ylim(found.min() - room, found.max() + room)
        axes.set_xlim(start, end)


def _finish(axes: Axes, axis: _Axis) -> None:
    axes.set_xlabel(axis.label)
    axes.grid(axis="y", alpha=0.25)
    open_frame(axes)


def _repeats(rows: Sequence[object]) -> str:
    return " SGD is repeated in every panel." if len(rows) > 1 else ""
