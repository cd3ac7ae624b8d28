"""The result of a comparison, as JSON can hold it and as a table."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from lsam_jax.experiments import environment, timing
from lsam_jax.experiments.config import Config
from lsam_jax.experiments.history import History


def report(
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    histories: Mapping[str, Sequence[History]],
    seconds: np.ndarray,
) -> dict[str, Any]:
    """Everything that a comparison found.

    Args:
        configs: By method.
        seeds: Of each method's runs.
        histories: By method, in the order of the seeds.
        seconds: f64[rounds, methods], times of a training step.

    Returns:
        Nested dictionaries; the numbers of a run are those of its last epoch, and how much was
        perturbed is the mean over the run.
    """
    first = next(iter(configs.values()))
    costs = timing.costs(tuple(configs), seconds)
    methods = {
        name: {
            "config": dataclasses.replace(configs[name], seed=0).to_json(),
            "validation_accuracy": over_seeds([h.validation_accuracy[-1] for h in runs]),
            "validation_loss": over_seeds([h.validation_loss[-1] for h in runs]),
            "train_loss": over_seeds([h.train_loss[-1] for h in runs]),
            "gradient_norm": over_seeds([h.gradient_norm[-1] for h in runs]),
            "perturbed_parameters": float(np.mean([h.perturbed_parameters for h in runs])),
            "perturbed_layers": float(np.mean([h.perturbed_layers for h in runs])),
            "step_cost": costs[name]._asdict(),
            "histories": [h.to_json() for h in runs],
        }
        for name, runs in histories.items()
    }
    return {
        "data": first.data,
        "model": first.model,
        "epochs": first.epochs,
        "batch_size": first.batch_size,
        "seeds": list(seeds),
        "timing_rounds": len(seconds),
        "methods": methods,
        "environment": environment.describe(),
    }


def print_table(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a report as one table.

    Args:
        report: What `report` returned.
        console: Where to; None for standard output.
    """
    seeds = len(report["seeds"])
    of_seeds = f"mean ± sample standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),  # fits 80 columns
        title=f"{report['model']} on {report['data']}, {report['epochs']} epochs of batches of "
        f"{report['batch_size']}",
        caption=(
            f"Last epoch, {of_seeds}. Gradient norm: of the plain training loss. Cost: of a "
            "whole training step relative to SGD, measured interleaved, median. Perturbed: share "
            "of the layers / of the parameters, mean over all steps."
        ),
    )
    table.add_column("method", no_wrap=True)
    for heading in (
        "accuracy\n(test, %)",
        "loss\n(test)",
        "gradient\nnorm",
        "cost of\na step",
        "perturbed\n(%)",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in report["methods"].items():
        table.add_row(
            name,
            statistics_text(row["validation_accuracy"], 2, scale=100),
            statistics_text(row["validation_loss"], 3),
            statistics_text(row["gradient_norm"], 3),
            f"{row['step_cost']['ratio']:.2f}",
            f"{100 * row['perturbed_layers']:.0f} / {100 * row['perturbed_parameters']:.0f}",
        )
    (console or Console()).print(table)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (None of one value), and the values."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "values": list(values)}


def statistics_text(statistics: Mapping[str, Any], digits: int, scale: float = 1.0) -> str:
    """What `over_seeds` found, as text."""
    mean = f"{scale * statistics['mean']:.{digits}f}"
    if statistics["std"] is None:
        return mean
    return f"{mean} ±{scale * statistics['std']:.{digits}f}"
