"""What `lsam-jax diagnose` measured, over seeds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from lsam_jax.experiments.plots import logarithmic, open_frame, short_name
from lsam_jax.experiments.report.document import Figure, Table
from lsam_jax.experiments.report.drawing import Entry, listed, panels, png
from lsam_jax.experiments.report.formats import spread_text
from lsam_jax.experiments.report.statistics import spread

MEASURES = {"ball_rise": "rise of the loss", "top_eigenvalue": "top Hessian eigenvalue"}


def measured(entries: Sequence[Entry]) -> list[Entry]:
    """Those with any."""
    return [e for e in entries if any(run.sharpness is not None for run in e.group.runs)]


def table(entries: Sequence[Entry]) -> Table:
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
        f"sample standard deviation over the seeds. Rise: of the loss after a step of length {rhos} "
        "along the gradient of all parameters (the SAM ball). Top eigenvalue and trace: of the "
        f"Hessian; the trace is an estimate from {probes} random probes.",
        ("method", "seeds", "rise of\nthe loss", "top eigenvalue", "trace"),
        tuple(rows),
    )


def by_layer(entries: Sequence[Entry], name: str) -> Figure:
    """Of each layer, a line for each method; `entries` as `measured` gives them."""
    first = _layers(entries[0])
    shown = [entry for entry in entries if _layers(entry) == first]
    rows = panels(shown)
    width = max(7.0, 0.3 * len(first) + 1.5)
    canvas = Canvas(figsize=(width, 2.7 * len(rows) * len(MEASURES) + 0.8), layout="constrained")
    places = canvas.subplots(len(rows) * len(MEASURES), 1, squeeze=False, sharex=True)[:, 0]
    turn = [(key, row) for key in MEASURES for row in rows]
    for place, (key, row) in zip(places, turn, strict=True):
        for entry, style in row:
            values = np.array(
                [
                    [_value(run.sharpness["layers"][layer][key]) for layer in first]
                    for run in entry.group.runs
                    if run.sharpness is not None
                ]
            )
            mean = values.mean(axis=0)
            place.errorbar(
                np.arange(len(first)),
                mean,
                [mean - values.min(axis=0), values.max(axis=0) - mean],
                color=style.color,
                linestyle=style.linestyle,
                marker=style.marker,
                ms=4,
                lw=1,
                capsize=2,
                label=entry.label,
            )
        logarithmic(place)
        place.set_ylabel(MEASURES[key])
        place.grid(axis="y", alpha=0.25)
        place.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        open_frame(place)
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
        "and top eigenvalue of the Hessian of that layer's parameters (log scales; what is not "
        "positive is left out), from the input (left) to the output, mean and range over the "
        "seeds.",
    )


def _layers(entry: Entry) -> list[str]:
    found = next(run.sharpness for run in entry.group.runs if run.sharpness is not None)
    return list(found["layers"])


def _value(number: float | None) -> float:
    return float("nan") if number is None else float(number)
