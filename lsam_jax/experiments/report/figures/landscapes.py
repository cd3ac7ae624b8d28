"""The loss around trained networks, in space and as contours: the paper's Figures 2 and 6."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from lsam_jax.experiments.plotting import panels, png, short_name
from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.numbers.read_run import Landscapes, RecordedRun
from lsam_jax.experiments.report.page import Figure
from lsam_jax.experiments.statistics import listed

MAP = "viridis"
TOP = 4.5
"""The paper's: losses from 0 to 4.5 are shown."""
LEVELS = np.linspace(0, TOP, 19)
LAYERS = 4
"""In space, for each method; as contours all are shown."""
METHODS = 4
"""In a picture."""


class View(NamedTuple):
    """The landscapes of one method."""

    label: str
    name: str
    run: RecordedRun
    around: Landscapes


def views(groups: Sequence[Group]) -> list[View]:
    """Those of the first seed of each method that has any."""
    found = []
    for group in groups:
        run = next((run for run in group.runs if run.landscapes is not None), None)
        if run is not None and run.landscapes is not None:
            found.append(View(group.label, group.name, run, run.landscapes))
    return found


def whole_model(shown: Sequence[View], name: str) -> Iterator[Figure]:
    """Of all parameters together, a column for each method."""
    for title, part, labels in _parts(shown, name):
        canvas = Canvas(figsize=(2.9 * len(part) + 1.2, 5.6), layout="constrained")
        for column, view in enumerate(part, start=1):
            steps, loss = view.around.model_steps, view.around.model_loss
            space = canvas.add_subplot(2, len(part), column, projection="3d")
            _surface(space, steps, loss)
            space.set_title(view.label, fontsize=9)
            flat = canvas.add_subplot(2, len(part), len(part) + column)
            drawn = _contour(flat, steps, loss)
            flat.set_xlabel("second direction", fontsize=8)
            if column == 1:
                flat.set_ylabel("first direction", fontsize=8)
        _bar(canvas, drawn)
        alt = f"Surfaces and contours of the loss around the whole network, for {labels}."
        words = (
            "Loss when all parameters move along two random directions that are scaled filter by "
            f"filter (Li et al., 2018), in lengths of these directions. {_shared(part[0].run)}"
        )
        yield Figure(title, png(canvas), alt, words)


def surfaces(shown: Sequence[View], name: str) -> Iterator[Figure]:
    """Of a few layers in space, a row for each method."""
    for title, part, labels in _parts(shown, name):
        every = part[0].around.layers
        names = picked(every)
        size = (2.5 * len(names) + 1, 2.4 * len(part) + 0.3)
        canvas = Canvas(figsize=size, layout="constrained")
        for row, view in enumerate(part):
            for column, layer in enumerate(names, start=1):
                if layer in view.around.layers:
                    place = row * len(names) + column
                    space = canvas.add_subplot(len(part), len(names), place, projection="3d")
                    loss = view.around.loss[view.around.layers.index(layer)]
                    _surface(space, view.around.steps, loss)
                    space.set_title(f"{view.label}\n{short_name(layer)}", fontsize=8)
        words = (
            "Loss when one layer alone moves along two random orthogonal directions of length 1; "
            f"{len(names)} of {len(every)} layers, evenly spaced from the input to the output. As "
            f"the paper's Figures 2 and 6. {_shared(part[0].run)}"
        )
        alt = f"Surfaces of the loss around single layers, for {labels}."
        yield Figure(title, png(canvas), alt, words)


def contours(view: View, name: str) -> Figure:
    """Of all layers of one method."""
    layers, steps = view.around.layers, view.around.steps
    canvas, places = panels(len(layers), 6, (1.7, 1.75), (1.2, 0.7), sharex=True, sharey=True)
    for place, layer, loss in zip(places.flat, layers, view.around.loss, strict=False):
        drawn = _contour(place, steps, loss)
        place.set_title(short_name(layer), fontsize=8)
    canvas.supxlabel("steps along the second direction", fontsize=9)
    canvas.supylabel("steps along the first direction", fontsize=9)
    _bar(canvas, drawn)
    return Figure(
        name,
        png(canvas),
        f"Contours of the loss around each layer of the network trained with {view.label}.",
        f"{view.label}: loss when one layer alone moves along two random orthogonal directions of "
        f"length 1. {_shared(view.run)}",
    )


def picked(layers: Sequence[str]) -> list[str]:
    """A few layers, evenly spaced, with the first and the last.

    Example:
        >>> picked([f"layer{i}" for i in range(10)])
        ['layer0', 'layer3', 'layer6', 'layer9']
    """
    places = np.linspace(0, len(layers) - 1, min(LAYERS, len(layers))).round().astype(int)
    return [layers[place] for place in places]


def _parts(shown: Sequence[View], name: str) -> Iterator[tuple[str, Sequence[View], str]]:
    """A few methods each, with the name of their picture and their labels."""
    for start in range(0, len(shown), METHODS):
        part = shown[start : start + METHODS]
        again = f"-{start // METHODS + 1}" if start else ""
        yield name + again, part, listed([view.label for view in part])


def _surface(place: Any, steps: Any, loss: Any) -> None:
    first, second = np.meshgrid(steps, steps, indexing="ij")
    place.plot_surface(
        second, first, _clipped(loss), cmap=MAP, vmin=0, vmax=TOP, linewidth=0, antialiased=False,
        rcount=50, ccount=50,
    )  # fmt: skip
    place.set_zlim(0, TOP)
    for axis in (place.xaxis, place.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    place.set_zticks([0, 1.5, 3, 4.5])
    place.tick_params(labelsize=6, pad=-2)
    place.view_init(elev=28, azim=-55)


def _contour(place: Axes, steps: Any, loss: Any) -> Any:
    height = _clipped(loss)
    filled = place.contourf(steps, steps, height, LEVELS, cmap=MAP)
    place.contour(steps, steps, height, LEVELS[::2], colors="white", linewidths=0.4, alpha=0.6)
    place.set_aspect("equal")
    place.tick_params(labelsize=7)
    return filled


def _clipped(loss: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.clip(loss, 0, TOP), nan=TOP)


def _bar(canvas: Canvas, drawn: Any) -> None:
    flat = [place for place in canvas.axes if place.name != "3d" and place.get_visible()]
    bar = canvas.colorbar(drawn, ax=flat, shrink=0.9, ticks=np.linspace(0, TOP, 10))
    bar.set_label(f"loss ({TOP} and above)", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _shared(run: RecordedRun) -> str:
    return (
        f"Height and colour: the training loss, on one scale in all pictures; above {TOP} it is "
        f"cut. Seed {run.seed}."
    )
