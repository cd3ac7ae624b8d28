"""Accuracy against cost: a panel for each regime, a point for each contender."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsam_jax.experiments import plotting
from lsam_jax.experiments.frontier.contenders import SAM, SGD
from lsam_jax.experiments.frontier.results import Result
from lsam_jax.experiments.plotting import COLOURS

NAMED = {
    **dict.fromkeys((SGD, SAM), COLOURS[1]),
    **dict.fromkeys(("sam-1/8", "layers-4-1/8", "sam-1/8-rise", "sam-1/8-rise-0.1"), COLOURS[0]),
    "layers-4": COLOURS[2],
    **dict.fromkeys(("stale-rise", "momentum"), COLOURS[3]),
    **dict.fromkeys(("last-fifth", "only-last-third", "every-5"), "0.45"),
}
"""The contenders that the picture names, with their colours; the others are grey points."""


def draw(found: Mapping[str, Sequence[Result]]) -> Figure:
    """The frontier."""
    figure, panels = plotting.panels(len(found), 2, (5.6, 3.7))
    for axes, (title, results) in zip(panels.flat, found.items(), strict=False):
        _panel(axes, title, results)
    return figure


def _panel(axes: Axes, title: str, results: Sequence[Result]) -> None:
    told = sorted({result.kind for result in results}, reverse=True)  # measured first
    for result in results:
        name = result.contender.name
        if name in (SGD, SAM):
            axes.axhline(100 * result.last.mean, color=NAMED[name], lw=1, ls=":", zorder=0)
        axes.errorbar(
            result.cost,
            100 * result.last.mean,
            100 * (result.last.std or 0.0),
            fmt="o",
            mfc=None if result.kind == told[0] else "white",
            ms=6 if name in NAMED else 3.5,
            color=NAMED.get(name, "0.7"),
            lw=1.2,
            zorder=3 if name in NAMED else 2,
        )
    _name_points(axes, [r for r in results if r.contender.name in NAMED])
    axes.set_title("\n".join(map(str.strip, title.split(";"))), fontsize=9)
    how = f"{told[0]}; hollow: counted" if len(told) > 1 else told[0]
    axes.set(
        xlabel=f"cost of training, plain = 1 ({how})", ylabel="right of the clean test images (%)"
    )
    axes.grid(alpha=0.25)


def _name_points(axes: Axes, results: Sequence[Result]) -> None:
    """Labels at the right, one above the other, each with a line to its point."""
    low, high = axes.get_ylim()
    right = max(2.0, *(result.cost for result in results)) + 0.12  # beyond SAM's price
    order = sorted(results, key=lambda result: result.last.mean)
    means = [100 * result.last.mean for result in order]
    for result, mean, level in zip(order, means, apart(means, low, high), strict=True):
        axes.plot([result.cost, right], [mean, level], lw=0.5, color="0.7", zorder=1)
        axes.text(
            right,
            level,
            result.contender.label,
            fontsize=7.5,
            va="center",
            color=NAMED[result.contender.name],
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    left = min(1.0, *(result.cost for result in results)) - 0.07
    axes.set_xlim(left, right + 0.75)
    axes.set_xticks([1, 1.25, 1.5, 1.75, 2])
    axes.set_ylim(low, high)


def apart(levels: Sequence[float], low: float, high: float) -> list[float]:
    """Rising levels moved apart, up where there is room and else down, between these two."""
    height = (high - low) / max(16, len(levels) + 1)
    found, floor, ceiling = [], low + height / 2, high - height / 2
    for level in levels:
        found.append(max(level, floor))
        floor = found[-1] + height
    for n in range(len(found) - 1, -1, -1):
        found[n] = min(found[n], ceiling)
        ceiling = found[n] - height
    return found
