"""What `lsam-jax diagnose` measured, over seeds."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm

from lsam_jax.experiments.plotting import logarithmic_bar, panels, png, short_name, slanted
from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.page import Columns, Figure, Table
from lsam_jax.experiments.statistics import listed, spread, spread_text

MEASURES = {"ball_rise": "rise of the loss", "top_eigenvalue": "top Hessian eigenvalue"}


def measured(groups: Sequence[Group]) -> list[Group]:
    """Those with any."""
    return [group for group in groups if _found(group)]


def table(groups: Sequence[Group]) -> Table:
    """Of the whole model; `groups` as `measured` gives them."""
    every = [found for group in groups for found in _found(group)]
    rhos = listed(sorted({str(x["rho"]) for x in every}))
    images = listed(sorted({str(x.get("images", "?")) for x in every}))
    probes = listed(sorted({str(x["trace"].get("probes", "?")) for x in every}))

    def number(*keys: str, digits: int) -> Callable[[Group], str]:
        def cell(group: Group) -> str:
            values: list[Any] = [reduce(getitem, keys, found) for found in _found(group)]
            return spread_text(spread(values), digits)

        return cell

    columns: Columns = {
        "method": lambda group: group.label,
        "seeds": lambda group: str(len(_found(group))),
        "rise of\nthe loss": number("ball", "rise", digits=4),
        "top eigenvalue": number("top_eigenvalue", digits=2),
        "trace": number("trace", "mean", digits=1),
    }
    words = (
        f"Of the training loss over {images} training images at the last epoch's weights; mean ± "
        "sample standard deviation over the seeds. Rise: of the loss after a step of length "
        f"{rhos} along the gradient of all parameters (the SAM ball). Top eigenvalue and trace: of "
        f"the Hessian; the trace is an estimate from {probes} random probes."
    )
    return Table.of(words, groups, columns)


def by_layer(groups: Sequence[Group], name: str) -> Figure:
    """Of each layer, a row for each method; `groups` as `measured` gives them."""
    layers = groups[0].layers
    shown = [group for group in groups if group.layers == layers]
    size = max(7.0, 0.3 * len(layers) + 3.5), 0.27 * len(shown) + 0.7
    canvas, places = panels(len(MEASURES), 1, size, (0, 1.2), sharex=True)
    grey = colormaps["viridis"].with_extremes(bad="0.8")
    for place, (key, words) in zip(places[:, 0], MEASURES.items(), strict=True):
        values = np.array([_over_seeds(group, layers, key) for group in shown])
        values[~(values > 0)] = np.nan
        known = values[np.isfinite(values)]
        scale = LogNorm(known.min(), known.max()) if len(known) else LogNorm(0.1, 1)
        drawn = place.imshow(values, aspect="auto", norm=scale, cmap=grey)
        place.set_yticks(range(len(shown)), [group.label for group in shown], fontsize=8)
        place.set_title(words[0].upper() + words[1:], fontsize=10)
        logarithmic_bar(canvas, drawn, place, aspect=12)
    slanted(places[-1, 0], [short_name(layer) for layer in layers])
    labels = listed([group.label for group in shown])
    return Figure(
        name,
        png(canvas),
        f"Rise of the loss and top Hessian eigenvalue of each layer, for {labels}.",
        "Rise of the loss after a step of the same length along the gradient of one layer alone, "
        "and top eigenvalue of the Hessian of that layer's parameters (log scales; grey where it "
        "is not positive), from the input (left) to the output, mean over the seeds.",
    )


def _found(group: Group) -> list[Mapping[str, Any]]:
    return [run.sharpness for run in group.runs if run.sharpness is not None]


def _over_seeds(group: Group, layers: Sequence[str], key: str) -> np.ndarray:
    """[L], means."""
    found = [x["layers"] for x in _found(group)]
    return np.array([[x[layer][key] for layer in layers] for x in found], float).mean(axis=0)
