"""What happened in each layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import PercentFormatter

from lsam_jax.experiments import plotting, statistics
from lsam_jax.experiments.report.numbers.groups import Group, seeds_text
from lsam_jax.experiments.report.page import Figure

MAP = "viridis"
MOST = 12
"""Methods in a picture of layers."""


def heat_maps(groups: Sequence[Group], name: str) -> Figure:
    """Gradient norm of each layer by passes, a map for each method: the paper's Figure 1."""
    shown = alike(groups)
    layers = shown[0].layers
    norms = [np.mean([run.by_layer["layer_norms"] for run in of.runs], axis=0) for of in shown]
    positive = np.concatenate([x[np.isfinite(x) & (x > 0)] for x in norms])
    scale = LogNorm(*(np.quantile(positive, (0.005, 1)) if len(positive) else (0.1, 1)))
    size = 2.5, 0.15 * len(layers) + 1.2
    canvas, places = plotting.panels(len(shown), 4, size, (2.3, 0), sharey=True)
    drawn: Any = None
    for place, group, values in zip(places.flat, shown, norms, strict=False):
        edges = np.concatenate([[0], group.runs[0].passes])
        rows = np.arange(len(layers) + 1) - 0.5
        drawn = place.pcolormesh(edges, rows, values.T, norm=scale, cmap=MAP, rasterized=True)
        place.set_title(group.label, fontsize=9)
        place.set_yticks(range(len(layers)), [plotting.short_name(x) for x in layers], fontsize=7)
    places[0, 0].invert_yaxis()
    canvas.supxlabel("passes over the training images", fontsize=9)
    bar = {"label": "gradient norm of the layer", "extend": "min", "shrink": 0.7, "aspect": 30}
    plotting.logarithmic_bar(canvas, drawn, places, **bar)
    return Figure(
        name,
        plotting.png(canvas),
        "Heat maps of the gradient norm of each layer by passes over the training images, for "
        f"{statistics.listed([group.label for group in shown])}.",
        "Gradient norm of each layer (log colour scale, the same for all), from the input (top) to "
        "the output, mean over the seeds; what the paper's Figure 1 shows as lines."
        f"{left_out(groups, shown)}",
    )


def perturbations(groups: Sequence[Group], name: str) -> Figure | None:
    """How often each layer was perturbed, bars for each method: the paper's Figure 5."""
    choosing = [of for of in groups if _shares(of).max() > 0 and _shares(of).min() < 1]
    if not choosing:
        return None
    every = [group.label for group in groups if _shares(group).min() == 1]
    shown = alike(choosing)
    layers = shown[0].layers
    size = max(6.4, 0.32 * len(layers) + 2.2), 1.15
    canvas, places = plotting.panels(len(shown), 1, size, (0, 1.5), sharex=True, sharey=True)
    for i, (place, group) in enumerate(zip(places[:, 0], shown, strict=True)):
        mean, reach = plotting.mean_and_reach(_shares(group))
        place.bar(
            range(len(layers)),
            mean,
            0.75,
            yerr=reach,
            color=plotting.COLOURS[i % len(plotting.COLOURS)],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "0.25"},
        )
        place.set_title(group.label, fontsize=9, loc="left", pad=3)
        place.set(ylim=(0, 1.05), xlim=(-0.6, len(layers) - 0.4), yticks=[0, 0.5, 1])
        place.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        place.tick_params(axis="x", length=0)
        place.tick_params(axis="y", labelsize=8)
        place.set_axisbelow(True)
        plotting.open_frame(place, grid="y")
    plotting.slanted(places[-1, 0], [plotting.short_name(x) for x in layers])
    canvas.supylabel("share of the steps", fontsize=9)
    return Figure(
        name,
        plotting.png(canvas),
        "Bars of how often each layer was perturbed, for "
        f"{statistics.listed([group.label for group in shown])}.",
        "Share of all steps in which a layer was perturbed, from the input (left) to the output, "
        f"{seeds_text(shown)}; as the paper's Figure 5. Methods that never perturb are not shown"
        f"{'; every layer in every step: ' + statistics.listed(every) if every else ''}."
        f"{left_out(choosing, shown)}",
    )


def _shares(group: Group) -> np.ndarray:
    """[S, L], of the steps in which a layer was perturbed."""
    steps = np.array([[run.last("step")] for run in group.runs])
    return np.array([run.by_layer["perturbations"][-1] for run in group.runs]) / steps


def alike(groups: Sequence[Group]) -> list[Group]:
    """The first few with the layers of the first."""
    return [group for group in groups if group.layers == groups[0].layers][:MOST]


def left_out(groups: Sequence[Group], shown: Sequence[Group]) -> str:
    """Says which are not shown."""
    rest = [group.label for group in groups if group not in shown]
    if not rest:
        return ""
    return (
        f" Shown are the table's first {MOST} with the layers of its first; not shown: "
        f"{statistics.listed(rest)}."
    )
