"""The benchmarks' reports as pictures: measured beside counted, by colours of `plots`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsam_jax.experiments.plotting import COLOURS, open_frame, short_name

MEASURED, COUNTED, MODELLED, PUBLISHED = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3]
COST = "cost of a gradient step (SGD = 1)"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draws what a benchmark returned.

    Args:
        report: The report.
        path: Of the PNG.
    """
    figure = _PICTURES[report["bench"]](report)
    figure.savefig(path, dpi=150)


def methods(report: Mapping[str, Any]) -> Figure:
    """A panel for each model, a bar for each method."""
    rows = report["rows"]
    most = max(len(row["steps"]) for row in rows.values())
    size = (0.6 + 5.2 * len(rows) + 1.6, 0.36 * most + 2.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=len(rows) > 1)[0]
    settings = report["settings"]
    for axes, (model, row) in zip(panels, rows.items(), strict=True):
        _bars(axes, row["steps"], "mean")
        axes.set_title(model)
    panels[0].invert_yaxis()
    side = settings["image_size"]
    figure.suptitle(
        f"Batches of {settings['batch_size']} images of {side}x{side} pixels, "
        f"{settings['rounds']} interleaved steps of each"
    )
    _legend(figure, panels, columns=2 if len(rows) == 1 else 4)
    return figure


def selections(report: Mapping[str, Any]) -> Figure:
    """A panel for each set of layers, a bar for each way to perturb it."""
    rows = report["rows"]
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, (len(rows) + 1) // 2, sharex=True, sharey=True, squeeze=False)
    for axes, (title, row) in zip(panels.flat, rows.items(), strict=False):
        _bars(axes, row["steps"], "ratio")
        axes.set_title(title, fontsize=10)
    panels[0, 0].invert_yaxis()
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    settings = report["settings"]
    side = settings["image_size"]
    figure.suptitle(
        f"{settings['model']}, batches of {settings['batch_size']} images of {side}x{side} pixels, "
        f"{settings['rounds']} interleaved steps of each"
    )
    _legend(figure, panels.flat)
    return figure


_PICTURES = {
    "methods": methods,
    "selections": selections,
}


def _bars(axes: Axes, steps: Mapping[str, Mapping[str, Any]], length: str) -> None:
    """A bar for each step, with its quartiles, and marks for what was counted and published."""
    place = np.arange(len(steps))
    value, low, high = (
        np.array([s[key] for s in steps.values()]) for key in (length, "low", "high")
    )
    error = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
    axes.barh(
        place, value, 0.7, xerr=error, color=MEASURED, alpha=0.75, label="measured, quartiles",
        error_kw={"elinewidth": 1.2, "capsize": 3, "ecolor": "0.2"},
    )  # fmt: skip
    for name, colour, marker, label in (
        ("counted", COUNTED, "D", "counted"),
        ("modelled", MODELLED, "^", "the paper's eq. 8, 9"),
        ("published", PUBLISHED, "s", "the paper's measurement"),
    ):
        found = [(p, s.get(name)) for p, s in zip(place, steps.values(), strict=True)]
        points = [(x["ratio"] if name == "published" else x, p) for p, x in found if x is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, color=colour, label=label,
                markersize=7, markeredgecolor="white",
            )  # fmt: skip
    axes.axvline(1, color="0.3", lw=1)
    axes.set_yticks(place, [short_name(name) for name in steps])
    axes.set_xlabel(COST)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    open_frame(axes)


def _legend(figure: Figure, panels: Any, columns: int = 4) -> None:
    """One for all panels."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)
