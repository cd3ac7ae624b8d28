"""The pictures of a comparison, which are those of a report with its methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from lsam_jax.experiments import files
from lsam_jax.experiments.plotting import COLOURS, MARKERS, mean_and_reach, open_frame, panels, png
from lsam_jax.experiments.report.figures import curves, layers
from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.numbers.read_run import BY_LAYER, NUMBERS, SINCE, RecordedRun


def draw(report: Mapping[str, Any], directory: Path) -> int:
    """Draws what there is to see.

    Args:
        report: See `study.summary.report`.
        directory: For ``accuracy_cost.png``, ``learning_curves.png``, ``gradient_norm.png``,
            ``radius.png`` if any method perturbs, and ``perturbations.png`` if any chooses layers.

    Returns:
        How many there are.
    """
    groups = [_group(name, row) for name, row in report["methods"].items()]
    figures = (
        curves.learning(groups, "learning_curves"),
        curves.gradient_norms(groups, "gradient_norm"),
        curves.radii(groups, "radius"),
        layers.perturbations(groups, "perturbations"),
    )
    drawn = {figure.name: figure.png for figure in figures if figure is not None}
    drawn["accuracy_cost"] = png(_accuracy_and_cost(report))
    for name, picture in drawn.items():
        files.replace(directory / f"{name}.png", picture)
    return len(drawn)


def _group(name: str, row: Mapping[str, Any]) -> Group:
    """The runs of a method, as if they had been read from directories."""
    runs = tuple(
        RecordedRun(
            f"{name}, run {number}",
            row["config"],
            tuple(history["layers"]),
            {key: np.array(history[key]) for key in (*NUMBERS, *SINCE)},
            {key: np.array(history[key]) for key in BY_LAYER},
            {},
        )
        for number, history in enumerate(row["histories"])
    )
    return Group(name, name, runs)


def _accuracy_and_cost(report: Mapping[str, Any]) -> Canvas:
    """Against the measured cost of a step, a point for each method; the first one's level."""
    figure, ((axes,),) = panels(1, 1, (6.4, 4.2))
    for i, (name, row) in enumerate(report["methods"].items()):
        colour = COLOURS[i % len(COLOURS)]
        values = 100 * np.array(row["validation_accuracy"]["values"])
        cost = row["step_cost"]
        mean, reach = mean_and_reach(values[:, None])
        across = [[max(0, cost["mean"] - cost["low"])], [max(0, cost["high"] - cost["mean"])]]
        axes.errorbar(
            cost["mean"], mean, reach, across, fmt=MARKERS[i % len(MARKERS)],
            color=colour, ms=8, lw=1.4, capsize=3, label=name,
        )  # fmt: skip
        if i == 0:
            axes.axhline(mean[0], color=colour, lw=1, ls=":", zorder=0)
    axes.set(
        title="Accuracy against cost",
        xlabel=f"cost of a training step, {next(iter(report['methods']))} = 1 (mean, quartiles)",
        ylabel="right of the test split (%)",
    )
    seeds = len(report["seeds"])
    axes.legend(title=f"mean and range of {seeds} seed{'s' * (seeds > 1)}", loc="best")
    open_frame(axes, grid="both")
    return figure
