"""What `lsam-jax diagnose` measured, over seeds."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lsam_jax.experiments.plotting import short_name
from lsam_jax.experiments.report.figures.drawing import PlotSeries, png
from lsam_jax.experiments.report.page import Figure, Table
from lsam_jax.experiments.statistics import listed, spread, spread_text

MEASURES = {"ball_rise": "rise of the loss", "top_eigenvalue": "top Hessian eigenvalue"}


def measured(entries: Sequence[PlotSeries]) -> list[PlotSeries]:
    """Those with any."""
    return [e for e in entries if any(run.sharpness is not None for run in e.group.runs)]


def table(entries: Sequence[PlotSeries]) -> Table:
    """Of the whole model; `entries` as `measured` gives them."""
    rows = []
    for label, group in entries:
        found = [run.sharpness for run in group.runs if run.sharpness is not None]
        rows.append(
            (
                label,
                str(len(found)),
                spread_text(spread([_value(x["ball"]["rise"]) for x in found]), 4),
                spread_text(spread([_value(x["top_eigenvalue"]) for x in found]), 2),
                spread_text(spread([_value(x["trace"]["mean"]) for x in found]), 1),
            )
        )
    every = [run.sharpness for _, group in entries for run in group.runs if run.sharpness]
    rhos = listed(sorted({f"{x['rho']:g}" for x in every}))
    images = listed(sorted({str(x.get("images", "?")) for x in every}))
    probes = listed(sorted({str(x["trace"].get("probes", "?")) for x in every}))
    return Table(
        f"Of the training loss over {images} training images at the last epoch's weights; mean ± "
        "sample standard deviation over the seeds. Rise: of the loss after a step of length "
        f"{rhos} along the gradient of all parameters (the SAM ball). Top eigenvalue and trace: of "
        f"the Hessian; the trace is an estimate from {probes} random probes.",
        ("method", "seeds", "rise of\nthe loss", "top eigenvalue", "trace"),
        tuple(rows),
    )


def by_layer(entries: Sequence[PlotSeries], name: str) -> Figure:
    """Of each layer, a row for each method; `entries` as `measured` gives them."""
    first = _layers(entries[0])
    shown = [entry for entry in entries if _layers(entry) == first]
    size = (max(7.0, 0.3 * len(first) + 3.5), (0.27 * len(shown) + 0.7) * len(MEASURES) + 1.2)
    canvas = Canvas(figsize=size, layout="constrained")
    places = canvas.subplots(len(MEASURES), 1, sharex=True)
    for place, (key, words) in zip(places, MEASURES.items(), strict=True):
        values = np.array([_over_seeds(entry, first, key) for entry in shown])
        values[~(values > 0)] = np.nan
        scale = LogNorm(*_range(values))
        drawn = place.imshow(values, aspect="auto", norm=scale, cmap=_map())
        place.set_yticks(range(len(shown)), [entry.label for entry in shown], fontsize=8)
        place.set_title(words[0].upper() + words[1:], fontsize=10)
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        ticks = LogLocator(subs=(1, 2, 5))
        bar = canvas.colorbar(drawn, ax=place, format=plain, ticks=ticks, aspect=12)
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    places[-1].set_xticks(
        range(len(first)), [short_name(layer) for layer in first], rotation=60, ha="right",
        fontsize=8, rotation_mode="anchor",
    )  # fmt: skip
    labels = listed([entry.label for entry in shown])
    return Figure(
        name,
        png(canvas),
        f"Rise of the loss and top Hessian eigenvalue of each layer, for {labels}.",
        "Rise of the loss after a step of the same length along the gradient of one layer alone, "
        "and top eigenvalue of the Hessian of that layer's parameters (log scales; grey where it "
        "is not positive), from the input (left) to the output, mean over the seeds.",
    )


def _layers(entry: PlotSeries) -> list[str]:
    found = next(run.sharpness for run in entry.group.runs if run.sharpness is not None)
    return list(found["layers"])


def _over_seeds(entry: PlotSeries, layers: list[str], key: str) -> np.ndarray:
    """[L], means."""
    found = [run.sharpness["layers"] for run in entry.group.runs if run.sharpness is not None]
    return np.mean([[_value(x[layer][key]) for layer in layers] for x in found], axis=0)


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)


def _map() -> Colormap:
    return colormaps["viridis"].with_extremes(bad="0.8")


def _value(number: float | None) -> float:
    return float("nan") if number is None else float(number)
