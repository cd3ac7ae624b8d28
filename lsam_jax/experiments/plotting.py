"""What all pictures share; colours are told apart by the colour-blind too."""

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

# Okabe and Ito's palette, without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
BASELINE = "0.15"
"""The colour of what others are compared with."""
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


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


def panels(
    count: int,
    columns: int,
    size: tuple[float, float],
    margin: tuple[float, float] = (0, 0),
    **share: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure with so many places, in rows.

    Args:
        count: How many there are.
        columns: In a row, at most.
        size: Width and height of a place.
        margin: What the figure has beside and above them.
        **share: Of `matplotlib.figure.Figure.subplots`.

    Returns:
        The figure, and its places, [rows, columns]; those that are too many are hidden.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    height = size[1] * rows + margin[1]
    figure = Figure(figsize=(size[0] * columns + margin[0], height), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, **share)
    for place in places.flat[count:]:
        place.set_visible(False)
    return figure, places


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
    axes.yaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def logarithmic_bar(figure: Figure, drawn: Any, axes: Any, **options: Any) -> None:
    """A bar of colours on a log scale, with plain numbers."""
    ticks = LogLocator(subs=(1, 2, 5))
    bar = figure.colorbar(drawn, ax=axes, ticks=ticks, format=PLAIN, **options)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def slanted(axes: Axes, names: Sequence[str], rotation: int = 60) -> None:
    """Names along the horizontal axis, one for each whole number."""
    axes.set_xticks(
        range(len(names)), names, rotation=rotation, ha="right", rotation_mode="anchor", fontsize=8
    )


def open_frame(axes: Axes, grid: Literal["x", "y", "both"] | None = None) -> None:
    """Leaves the axes their left and bottom lines, and draws a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(axis=grid, alpha=0.25)


def png(figure: Figure) -> bytes:
    """The picture as a file; 256 colours take a third of the bytes, and show the same."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=130, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
    return file.getvalue()
