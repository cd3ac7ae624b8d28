"""The pictures of a comparison; colours are told apart by the colour-blind too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

# Okabe and Ito's palette, without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))


def learning_curves(histories: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Training loss and test error by epoch, a line for each method.

    Methods without a clean pass of the whole batch report the loss of the perturbed weights.

    Args:
        histories: For each method the histories of its seeds.
        path: Of the PNG.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, {name: [h.train_loss for h in runs] for name, runs in histories.items()})
    errors = {
        name: [[100 * (1 - a) for a in h.validation_accuracy] for h in runs]
        for name, runs in histories.items()
    }
    _curves(right, errors)
    left.set(title="Training loss", ylabel="loss of the epoch's batches, as steps report it")
    right.set(title="Test error", ylabel="wrong of the test split (%)")
    left.legend(title=_seeds(histories))
    figure.savefig(path, dpi=150)


def accuracy_and_cost(report: Mapping[str, Any], path: Path) -> None:
    """Accuracy against the measured cost of a step, a point for each method.

    Args:
        report: Of a comparison, see `summary.report`; the level of its first method is a line.
        path: Of the PNG.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (name, row) in enumerate(report["methods"].items()):
        colour = COLOURS[i % len(COLOURS)]
        values = 100 * np.array(row["validation_accuracy"]["values"])
        cost = row["step_cost"]
        mean, reach = mean_and_reach(values[:, None])
        across = [[cost["ratio"] - cost["low"]], [cost["high"] - cost["ratio"]]]
        axes.errorbar(
            cost["ratio"], mean, reach, across, fmt=MARKERS[i % len(MARKERS)],
            color=colour, ms=8, lw=1.4, capsize=3, label=name,
        )  # fmt: skip
        if i == 0:
            axes.axhline(mean[0], color=colour, lw=1, ls=":", zorder=0)
    axes.set(
        title="Accuracy against cost",
        xlabel=f"cost of a training step, {next(iter(report['methods']))} = 1 (median, quartiles)",
        ylabel="right of the test split (%)",
    )
    axes.set_xlim(left=0.9)
    axes.grid(alpha=0.25)
    seeds = len(report["seeds"])
    axes.legend(title=f"mean and range of {seeds} seed{'s' * (seeds > 1)}", loc="best")
    open_frame(axes)
    figure.savefig(path, dpi=150)


def gradient_norms(histories: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Norm of the whole model's plain gradient by epoch, a line for each method."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    _curves(axes, {name: [h.gradient_norm for h in runs] for name, runs in histories.items()})
    axes.set(
        title="Gradient norm of the whole model", ylabel="norm of the training loss's gradient"
    )
    axes.legend(title=_seeds(histories))
    figure.savefig(path, dpi=150)


def radii(histories: Mapping[str, Sequence[Any]], path: Path) -> None:
    """The radius, and by how much the loss rises along the perturbation, a line for each method.

    Args:
        histories: For each method that perturbs the histories of its seeds.
        path: Of the PNG.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, {name: [h.rho for h in runs] for name, runs in histories.items()})
    _curves(right, {name: [h.rise for h in runs] for name, runs in histories.items()})
    left.set(title="Radius of the perturbation", ylabel="rho, mean of the epoch")
    right.set(title="Rise of the loss along it", ylabel="rise, in units of the loss")
    left.legend(title=_seeds(histories))
    figure.savefig(path, dpi=150)


def perturbations(histories: Mapping[str, Sequence[Any]], steps: int, path: Path) -> None:
    """How often each layer was perturbed, in network order, bars for each method.

    Args:
        histories: For each method that chooses layers the histories of its seeds.
        steps: Of a run.
        path: Of the PNG.
    """
    layers = next(iter(histories.values()))[0].layers
    figure = Figure(figsize=(max(6.4, 0.42 * len(layers) + 2), 4.6), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(layers))
    width = 0.8 / len(histories)
    for i, (name, runs) in enumerate(histories.items()):
        shares = np.array([h.perturbations[-1] for h in runs]) / steps
        mean, reach = mean_and_reach(shares)
        axes.bar(
            place + (i - (len(histories) - 1) / 2) * width,
            mean,
            width,
            yerr=reach,
            color=COLOURS[(i + 2) % len(COLOURS)],
            error_kw={"elinewidth": 1, "capsize": 3, "ecolor": "0.25"},
            label=name,
        )
    axes.set_xticks(place, [short_name(layer) for layer in layers], rotation=50, ha="right")
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("layer, from the input to the output")
    axes.set_ylabel("share of the steps that perturbed it")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylim(0, 1.02)
    axes.set_title(f"Perturbed layers in {steps} steps")
    title = "mean, least and most of " + _count(histories)
    figure.legend(loc="outside lower center", ncols=len(histories), title=title)
    open_frame(axes)
    figure.savefig(path, dpi=150)


def mean_and_reach(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of N columns, f[N], and how far their least and most are from it, f[2, N].

    Example:
        >>> mean_and_reach(np.array([[1.0], [2.0], [6.0]]))
        (array([3.]), array([[2.],
               [3.]]))
    """
    mean = values.mean(axis=0)
    reach = np.stack([mean - values.min(axis=0), values.max(axis=0) - mean])
    return mean, np.maximum(reach, 0)  # of equal values, rounding would make it negative


def short_name(layer: str) -> str:
    """A layer's name without the ``/kernel`` that all of them share.

    Example:
        >>> short_name("block0/conv1/kernel")
        'block0/conv1'
    """
    return layer.removesuffix("/kernel")


def curve(
    axes: Axes,
    x: np.ndarray,
    runs: Sequence[Sequence[float]] | np.ndarray,
    *,
    color: str,
    **style: Any,
) -> None:
    """The mean over seeds as a line, with a band from the least to the most.

    Args:
        axes: To draw in.
        x: [E].
        runs: [S, E], a row for each seed.
        color: Of both.
        **style: Of the line: its label, width, dashes.
    """
    values = np.array(runs)
    marker = "o" if len(x) == 1 else None
    axes.plot(x, values.mean(axis=0), color=color, **{"lw": 1.8, "marker": marker, **style})
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, lw=0)


def logarithmic(axes: Axes) -> None:
    """A log scale with plain numbers."""
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curves(axes: Axes, lines: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """A curve for each method by epoch, on a log scale."""
    for i, (name, runs) in enumerate(lines.items()):
        epochs = np.arange(1, len(runs[0]) + 1)
        colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
        curve(axes, epochs, runs, color=colour, label=name, linestyle=line)
    logarithmic(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.grid(axis="y", which="both", alpha=0.25)
    open_frame(axes)


def open_frame(axes: Axes) -> None:
    """Leaves the axes their left and bottom lines."""
    axes.spines[["top", "right"]].set_visible(False)


def _count(histories: Mapping[str, Sequence[Any]]) -> str:
    count = len(next(iter(histories.values())))
    return "1 seed" if count == 1 else f"{count} seeds"


def _seeds(histories: Mapping[str, Sequence[Any]]) -> str:
    return f"mean and range of {_count(histories)}"
