"""Accuracy against what it cost."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import ScaledTranslation

from lsam_jax.experiments.plotting import COLOURS, curve, open_frame
from lsam_jax.experiments.report.figures.drawing import (
    BASELINE,
    MARKERS,
    PlotSeries,
    png,
    seeds_text,
)
from lsam_jax.experiments.report.numbers.accuracy import ACCURACY
from lsam_jax.experiments.report.numbers.equal_time import EqualCostComparison
from lsam_jax.experiments.report.page import Figure
from lsam_jax.experiments.statistics import listed, spread

GREYS = ("0.15", "0.45", "0.65", "0.78")
DASHES = ("-", "--", "-.", ":")
COLUMNS = 3
SAME = 0.02
"""Costs that are drawn beside each other."""
ASIDE = 0.03
"""By how many inches."""


def scatter(
    contests: Sequence[EqualCostComparison], entries: Sequence[PlotSeries], name: str
) -> Figure:
    """Accuracy by cost of the whole run, a panel for each clock.

    Args:
        contests: At least one, of one baseline.
        entries: The methods; SGD's runs of all lengths are added.
        name: Of the figure.
    """
    canvas = Canvas(figsize=(4.4 * len(contests) + 2.2, 4.4), layout="constrained")
    every: list[float] = []
    for place, contest in zip(
        canvas.subplots(1, len(contests), squeeze=False, sharey=True)[0], contests, strict=True
    ):
        sgd = [PlotSeries(f"SGD, {group.passes} passes", group) for group in contest.sgd]
        methods = [e for e in entries if e.group.config["method"] != "sgd"]
        points = [(contest.clock.total(e.group), *_percent(e)) for e in sgd]
        x, y, error = (np.array(column) for column in zip(*points, strict=True))
        name_of_sgd = "SGD" if len(sgd) == 1 else "SGD, longer from left to right"
        place.errorbar(x, y, error, color=BASELINE, marker="o", ms=5, lw=1.2, capsize=3,
                       label=name_of_sgd)  # fmt: skip
        taken = [cost for cost, *_ in points]
        for i, entry in enumerate(methods):
            if not contest.clock.knows(entry.group):
                continue
            mean, deviation = _percent(entry)
            cost = contest.clock.total(entry.group)
            aside = sum(abs(cost - other) < SAME for other in taken) * ASIDE
            taken.append(cost)
            place.errorbar(
                cost,
                mean,
                deviation,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[(i + i // len(COLOURS) + 1) % len(MARKERS)],
                ms=8,
                mec="white",
                lw=1.2,
                capsize=3,
                linestyle="none",
                label=entry.label,
                transform=place.transData + ScaledTranslation(aside, 0, canvas.dpi_scale_trans),
            )
        shown_here = [e for e in (*sgd, *methods) if contest.clock.knows(e.group)]
        points = [(contest.clock.total(e.group), *_percent(e)) for e in shown_here]
        place.set_xlim(*_room([cost for cost, *_ in points]))
        every += [y for _, mean, deviation in points for y in (mean - deviation, mean + deviation)]
        place.set_xlabel(f"cost of the run, {contest.kind} (runs of SGD, {contest.base.passes} "
                         "passes)")  # fmt: skip
        place.grid(alpha=0.25)
        open_frame(place)
    canvas.axes[0].set_ylim(*_room(every))  # of all panels, which share it
    canvas.axes[0].set_ylabel("validation accuracy (%)")
    handles, labels = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside right upper", fontsize=8)
    shown = listed([entry.label for entry in entries])
    words = (
        "Validation accuracy after the last epoch against the cost of the whole run, mean ± sample "
        "standard deviation over the seeds. Points of one cost are moved a little to the right of "
        "each other."
    )
    if len(contests[0].sgd) > 1:
        words += (
            " The black line joins runs of SGD of growing length: a method above it does more with "
            "its time than SGD does with longer training."
        )
    return Figure(
        name,
        png(canvas),
        f"Points of validation accuracy against the cost of the whole run, for {shown}.",
        words,
    )


def at_equal_time(
    contest: EqualCostComparison, entries: Sequence[PlotSeries], name: str
) -> Figure | None:
    """Accuracy by the cost so far, a panel for each method, with SGD's runs of all lengths."""
    methods = [
        entry
        for entry in entries
        if entry.group.config["method"] != "sgd" and contest.clock.knows(entry.group)
    ]
    if not methods:
        return None
    columns = min(COLUMNS, len(methods))
    rows = math.ceil(len(methods) / columns)
    canvas = Canvas(figsize=(3.6 * columns + 0.4, 3 * rows + 0.6), layout="constrained")
    places = canvas.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    sgd = [PlotSeries(f"SGD, {group.passes} passes", group) for group in contest.sgd]
    for i, (place, entry) in enumerate(zip(places.flat, methods, strict=False)):
        for j, longer in enumerate(sgd):
            _draw(place, contest, longer, GREYS[min(j, 3)], DASHES[j % 4])
        _draw(place, contest, entry, COLOURS[i % len(COLOURS)], "-")
        place.set_title(entry.label, fontsize=10)
    for i, place in enumerate(places.flat):
        place.set_visible(i < len(methods))
        place.tick_params(labelbottom=i + columns >= len(methods))
    for place in places.flat:
        place.grid(axis="y", alpha=0.25)
        open_frame(place)
    # The first epochs are far below, and would leave no height for the end.
    ends = [100 * run.last(ACCURACY) for e in (*methods, *sgd) for run in e.group.runs]
    halves = [
        100 * run.numbers[ACCURACY][run.epochs // 2]
        for e in (*methods, *sgd)
        for run in e.group.runs
    ]
    low, high = float(np.nanmin([*ends, *halves])), float(np.nanmax(ends))
    if high > low:
        places[0, 0].set_ylim(low - 0.15 * (high - low), high + 0.1 * (high - low))
    canvas.supxlabel(f"cost so far, {contest.kind} (runs of SGD, {contest.base.passes} passes)",
                     fontsize=10)  # fmt: skip
    canvas.supylabel("validation accuracy (%)", fontsize=10)
    handles, labels = places[0, 0].get_legend_handles_labels()
    canvas.legend(handles[: len(sgd)], labels[: len(sgd)], loc="outside upper center",
                  ncols=len(sgd), fontsize=9)  # fmt: skip
    return Figure(
        name,
        png(canvas),
        f"Curves of validation accuracy by {contest.kind} cost, for "
        f"{listed([entry.label for entry in methods])}, each beside SGD.",
        f"Validation accuracy by the cost so far, {contest.kind}, {seeds_text([*methods, *sgd])}: "
        "each method (in colour) beside SGD's runs of all lengths (grey). At one place on the "
        "axis all had the same time. The first epochs are cut off below.",
    )


def _draw(
    place: Axes, contest: EqualCostComparison, entry: PlotSeries, colour: str, line: str
) -> None:
    runs = entry.group.runs
    cost = np.mean([contest.clock.so_far(entry.group, run) for run in runs], axis=0)
    values = np.array([100 * run.numbers[ACCURACY] for run in runs])
    curve(place, cost, values, color=colour, linestyle=line, label=entry.label, lw=1.5)


def _room(values: Sequence[float]) -> tuple[float, float]:
    """Limits for points, which matplotlib does not see when they are moved aside."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = 0.12 * (high - low) or 0.1
    return low - room, high + room


def _percent(entry: PlotSeries) -> tuple[float, float]:
    found = spread(list(entry.group.last(ACCURACY).values()))
    return 100 * found.mean, 100 * (found.std or 0.0)
