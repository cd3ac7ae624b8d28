"""Accuracy against what it cost."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from lsam_jax.experiments.plotting import BASELINE, COLOURS, MARKERS, curve, open_frame, panels, png
from lsam_jax.experiments.report.numbers.accuracy import ACCURACY
from lsam_jax.experiments.report.numbers.groups import Group, seeds_text
from lsam_jax.experiments.report.numbers.run_cost import CostScale
from lsam_jax.experiments.report.page import Figure
from lsam_jax.experiments.statistics import listed

GREYS = ("0.15", "0.45", "0.65", "0.78")
DASHES = ("-", "--", "-.", ":")
SAME = 0.02
"""Costs that are drawn beside each other."""
ASIDE = 0.01
"""By how much, as a share of the largest cost."""
ROOM = 0.12
"""Around the points, as a share of what they cover."""


def scatter(scales: Sequence[CostScale], groups: Sequence[Group], name: str) -> Figure:
    """Accuracy by cost of the whole run, a panel for each way to tell costs."""
    canvas, places = panels(len(scales), len(scales), (4.4, 4.4), (2.2, 0), sharey=True)
    methods = [group for group in groups if not group.is_sgd]
    for place, scale in zip(places[0], scales, strict=True):
        _points(place, scale, methods)
    places[0, 0].set_ylabel("validation accuracy (%)")
    handles, labels = places[0, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside right upper", fontsize=8)
    words = (
        "Validation accuracy after the last epoch against the cost of the whole run, mean ± sample "
        "standard deviation over the seeds. Points of one cost are moved a little to the right of "
        "each other."
    )
    if len(scales[0].sgd) > 1:
        words += (
            " The black line joins runs of SGD of growing length: a method above it does more with "
            "its time than SGD does with longer training."
        )
    shown = listed([group.label for group in groups])
    alt = f"Points of validation accuracy against the cost of the whole run, for {shown}."
    return Figure(name, png(canvas), alt, words)


def _points(place: Axes, scale: CostScale, methods: Sequence[Group]) -> None:
    """Draws a panel."""
    known = [group for group in methods if scale.knows(group)]
    groups = [*scale.sgd, *known]
    costs = [scale.total(group) for group in groups]
    found = [group.spread(ACCURACY) for group in groups]
    means, deviations = (100 * np.array([x[i] or 0.0 for x in found]) for i in (0, 1))
    sgd, aside = len(scale.sgd), ASIDE * max(costs)
    place.errorbar(
        costs[:sgd], means[:sgd], deviations[:sgd], color=BASELINE, marker="o", ms=5, lw=1.2,
        capsize=3, label="SGD" if sgd == 1 else "SGD, longer from left to right",
    )  # fmt: skip
    for n, group in enumerate(known, start=sgd):
        i = methods.index(group)
        same = sum(abs(costs[n] - other) < SAME for other in costs[:n])
        place.errorbar(
            costs[n] + aside * same, means[n], deviations[n], color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[(i + i // len(COLOURS) + 1) % len(MARKERS)], ms=8, mec="white", lw=1.2,
            capsize=3, linestyle="none", label=group.label,
        )  # fmt: skip
    place.margins(ROOM)
    place.set_xlabel(f"cost of the run, {scale.kind} (runs of SGD, {scale.base.passes} passes)")
    open_frame(place, grid="both")


def at_equal_time(scale: CostScale, groups: Sequence[Group], name: str) -> Figure | None:
    """Accuracy by the cost so far, a panel for each method, with SGD's runs of all lengths."""
    methods = [group for group in groups if not group.is_sgd and scale.knows(group)]
    if not methods:
        return None
    canvas, places = panels(len(methods), 3, (3.6, 3), (0.4, 0.6), sharex=True, sharey=True)
    sgd = [replace(group, label=f"SGD, {group.passes} passes") for group in scale.sgd]
    for i, (place, group) in enumerate(zip(places.flat, methods, strict=False)):
        for j, longer in enumerate(sgd):
            _draw(place, scale, longer, GREYS[min(j, 3)], DASHES[j % 4])
        _draw(place, scale, group, COLOURS[i % len(COLOURS)], "-")
        place.set_title(group.label, fontsize=10)
        place.tick_params(labelbottom=i + places.shape[1] >= len(methods))
        open_frame(place, grid="y")
    # The first epochs are far below, and would leave no height for the end.
    runs = [100 * run.numbers[ACCURACY] for group in (*methods, *sgd) for run in group.runs]
    high = float(np.nanmax([run[-1] for run in runs]))
    low = float(np.nanmin([run[[-1, len(run) // 2]] for run in runs]))
    if high > low:
        places[0, 0].set_ylim(low - 0.15 * (high - low), high + 0.1 * (high - low))
    canvas.supxlabel(
        f"cost so far, {scale.kind} (runs of SGD, {scale.base.passes} passes)", fontsize=10
    )
    canvas.supylabel("validation accuracy (%)", fontsize=10)
    handles, labels = (found[: len(sgd)] for found in places[0, 0].get_legend_handles_labels())
    canvas.legend(handles, labels, loc="outside upper center", ncols=len(sgd), fontsize=9)
    return Figure(
        name,
        png(canvas),
        f"Curves of validation accuracy by {scale.kind} cost, for "
        f"{listed([group.label for group in methods])}, each beside SGD.",
        f"Validation accuracy by the cost so far, {scale.kind}, {seeds_text([*methods, *sgd])}: "
        "each method (in colour) beside SGD's runs of all lengths (grey). At one place on the "
        "axis all had the same time. The first epochs are cut off below.",
    )


def _draw(place: Axes, scale: CostScale, group: Group, colour: str, line: str) -> None:
    runs = group.runs
    cost = np.mean([scale.so_far(group, run) for run in runs], axis=0)
    values = np.array([100 * run.numbers[ACCURACY] for run in runs])
    curve(place, cost, values, color=colour, linestyle=line, label=group.label, lw=1.5)
