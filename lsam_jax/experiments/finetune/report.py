"""What came of fine-tuning: as JSON can hold it, as a table, as a picture."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from lsam_jax.experiments import environment
from lsam_jax.experiments.bench.timing import Cost
from lsam_jax.experiments.plotting import COLOURS, LINES, open_frame
from lsam_jax.experiments.statistics import over_seeds, statistics_text

WIDTH = 80


def report(
    settings: Any,
    chosen: Mapping[str, Any],
    seeds: Sequence[int],
    runs: Mapping[str, Sequence[Any]],
    costs: Mapping[str, Mapping[str, Cost]],
    rounds: int,
) -> dict[str, Any]:
    """Everything that was found.

    Args:
        settings: See `finetune.Settings`.
        chosen: The methods by name, see `methods.FinetuneMethod`.
        seeds: Of each method's runs.
        runs: By method, in the order of the seeds, see `finetune.FinetuneRun`.
        costs: By clock and method, measured.
        rounds: Of that measurement.

    Returns:
        Nested dictionaries.
    """
    first = next(iter(runs.values()))[0]
    rows = {}
    for name, of_seeds in runs.items():
        perturbed = float(np.mean([run.perturbed for run in of_seeds]))
        rows[name] = {
            "label": chosen[name].label,
            "perturbed_parameters": perturbed,
            "trained_parameters": perturbed if chosen[name].partial else 1.0,
            "counted_cost": float(np.mean([run.cost[-1] for run in of_seeds])) / settings.steps,
            "step_cost": {clock: cost[name]._asdict() for clock, cost in costs.items()},
            "validation_loss": over_seeds([run.validation_loss[-1] for run in of_seeds]),
            "runs": [
                {"step": run.steps, "cost": run.cost, "validation_loss": run.validation_loss}
                for run in of_seeds
            ],
        }
    return {
        "settings": dataclasses.asdict(settings),
        "seeds": list(seeds),
        "timing_rounds": rounds,
        "validation_loss_before": first.validation_loss[0],
        "methods": rows,
        "environment": environment.describe(),
    }


def table(report: Mapping[str, Any]) -> Table:
    """A report as a table, a row for each method."""
    settings, seeds = report["settings"], len(report["seeds"])
    of_seeds = f"mean ± sample standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    shown = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title=f"Fine-tuning on source code: {settings['steps']} steps of {settings['batch_size']} "
        f"x {settings['model']['context']} bytes",
        caption=(
            f"Loss: of held-out modules, nats per byte, before and after, {of_seeds}; all start "
            "from one model that was pretrained on prose. Counted: floating-point operations of "
            "a gradient; time and CPU: wall-clock and processor time of a whole step, interleaved, "
            "median; all relative to AdamW's. Active: share of the parameters that a step perturbs "
            "/ trains."
        ),
    )
    shown.add_column("method", no_wrap=True)
    for heading in ("active\n(%)", "cost\ncounted", "\ntime", "\nCPU", "loss\nbefore", "\nafter"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in report["methods"].values():
        shown.add_row(
            row["label"],
            f"{100 * row['perturbed_parameters']:.0f} / {100 * row['trained_parameters']:.0f}",
            f"{row['counted_cost']:.2f}",
            *(f"{cost['ratio']:.2f}" for cost in row["step_cost"].values()),
            f"{report['validation_loss_before']:.3f}",
            statistics_text(row["validation_loss"], 3),
        )
    return shown


def table_text(report: Mapping[str, Any]) -> str:
    """The table as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(table(report))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    return "\n".join(line.rstrip() for line in lines) + "\n"


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Held-out loss by the cost counted so far, a line for each method.

    Args:
        report: What `report` returned.
        path: Of the PNG.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(report["methods"].values()):
        cost = np.mean([run["cost"] for run in row["runs"]], axis=0)
        losses = np.array([run["validation_loss"] for run in row["runs"]])
        colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
        axes.plot(cost, losses.mean(axis=0), label=row["label"], color=colour, ls=line, lw=1.8)
        axes.fill_between(
            cost, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.15, lw=0
        )
    seeds = len(report["seeds"])
    axes.set(
        title=f"Fine-tuning on source code, {report['settings']['steps']} steps of each method",
        xlabel="counted cost, in AdamW's gradients",
        ylabel="loss of held-out modules (nats per byte)",
    )
    axes.legend(title=f"mean and range of {seeds} seeds" if seeds > 1 else "1 seed")
    axes.grid(axis="y", alpha=0.25)
    open_frame(axes)
    figure.savefig(path, dpi=150)
