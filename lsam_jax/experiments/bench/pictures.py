"""The benchmarks' reports as pictures: measured beside counted, by colours of `plotting`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lsam_jax.experiments.plotting import COLOURS, open_frame, panels, short_name

MEASURED, COUNTED, MODELLED, PUBLISHED = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3]
COST = "cost of a gradient step (SGD = 1)"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draws what a benchmark returned: a panel for each model or set of layers, bars for steps."""
    rows, settings = report["rows"], report["settings"]
    of_models = report["bench"] == "methods"
    most = max(len(row["steps"]) for row in rows.values())
    columns = -(-len(rows) // (1 if of_models else 2))
    size, margin = ((5.2, 0.36 * most), (2.2, 2.2)) if of_models else ((11 / columns, 3), (0, 0))
    figure, places = panels(len(rows), columns, size, margin, sharex="col", sharey=True)
    for axes, (title, row) in zip(places.flat, rows.items(), strict=False):
        _bars(axes, row["steps"], "mean" if of_models else "ratio")
        axes.set_title(title, fontsize=10)
    places[0, 0].invert_yaxis()
    for axes in places[:-1].flat:
        axes.set_xlabel("")
    side, model = settings["image_size"], "" if of_models else f"{settings['model']}, "
    figure.suptitle(
        f"{model}batches of {settings['batch_size']} images of {side}x{side} pixels, "
        f"{settings['rounds']} interleaved steps of each"
    )
    found: dict[str, Any] = {}
    for axes in places.flat:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    legend = {"loc": "outside lower center", "ncols": 2 if len(rows) == 1 else 4}
    figure.legend(found.values(), found.keys(), **legend)
    figure.savefig(path, dpi=150)


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
    axes.set_axisbelow(True)
    open_frame(axes, grid="x")
