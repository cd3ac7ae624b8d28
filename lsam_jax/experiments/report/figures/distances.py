"""How far apart the trained networks are."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsam_jax.experiments.plotting import panels, png, slanted
from lsam_jax.experiments.report.page import Columns, Figure, Table
from lsam_jax.experiments.statistics import NOTHING, spread, spread_text

MOST = 12
"""Runs in a map; more are averaged by method."""


def heat_map(found: Mapping[str, Any], labels: Mapping[str, str], name: str) -> Figure:
    """Relative distances, as numbers on a map."""
    names, values = list(found["runs"]), np.array(found["relative"], float)
    average = len(names) > MOST
    if average:
        names, values = _by_group(names, values)
    parts = [one.partition("/") for one in names]
    shown = [labels.get(x, x) + (f", {seed}" if seed else "") for x, _, seed in parts]
    size = 0.55 * len(names) + 2.6
    canvas, ((place,),) = panels(1, 1, (size + 1, size))
    apart = values[np.isfinite(values) & (values > 0)]
    low, high = (apart.min(), apart.max()) if len(apart) else (0.0, 1.0)
    drawn = place.imshow(values, cmap="cividis", vmin=low, vmax=high)
    middle = (low + high) / 2
    for (i, j), value in np.ndenumerate(values):
        words = f"{value:.2f}" if np.isfinite(value) else NOTHING
        colour = "white" if value < middle else "black"
        place.text(j, i, words, ha="center", va="center", fontsize=7, color=colour)
    slanted(place, shown, 50)
    place.set_yticks(range(len(shown)), shown, fontsize=8)
    canvas.colorbar(drawn, ax=place, label="relative distance", shrink=0.8)
    words = (
        "Euclidean distance between the trained parameters of two runs, divided by the mean of "
        "their norms."
    )
    if average:
        words += (
            f" With more than {MOST} runs, means by method: off the diagonal over pairs of the "
            "same seed, on it over pairs of different seeds of one method."
        )
    alt = f"Map of the distances between {len(names)} {'methods' if average else 'runs'}."
    return Figure(name, png(canvas), alt, words)


def from_start(found: Mapping[str, Any], labels: Mapping[str, str]) -> Table:
    """Distance of each method's runs from their own initial weights."""
    members: dict[str, list[float | None]] = {}
    for run, distance in zip(found["runs"], found["from_start"], strict=True):
        members.setdefault(run.partition("/")[0], []).append(distance)
    columns: Columns = {
        "method": lambda name: labels.get(name, name),
        "seeds": lambda name: str(len(members[name])),
        "distance": lambda name: spread_text(spread(members[name]), 2),
    }
    words = (
        "Euclidean distance of the trained parameters from the run's own initial weights, mean ± "
        "sample standard deviation over the seeds."
    )
    return Table.of(words, members, columns)


def _by_group(runs: list[str], relative: np.ndarray) -> tuple[list[str], np.ndarray]:
    """[G, G], means over pairs of one seed; on the diagonal over pairs of different seeds."""
    pairs = [run.partition("/")[::2] for run in runs]
    groups = list(dict.fromkeys(group for group, _ in pairs))
    of, seeds = map(np.array, zip(*pairs, strict=True))
    same_seed = seeds[:, None] == seeds
    means = np.full((len(groups), len(groups)), np.nan)
    for (a, first), (b, second) in itertools.product(enumerate(groups), repeat=2):
        counts = (of[:, None] == first) & (of == second) & (same_seed == (a != b))
        if counts.any():
            means[a, b] = relative[counts].mean()
    return groups, means
