"""The result of a comparison, as JSON can hold it and as a table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from lsam_jax.experiments import environment, tables
from lsam_jax.experiments.bench.training_steps import StepTimes
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.statistics import over_seeds, statistics_text
from lsam_jax.experiments.training.history import History

RECIPE = ("data", "model", "epochs", "batch_size", "label_noise")
LAST = ("validation_accuracy", "validation_loss", "train_loss", "gradient_norm")
"""Of which the last epoch's value counts."""


class Trained(NamedTuple):
    """A run that is over.

    Attributes:
        history: Its epochs.
        seconds: Of training, evaluations left out.
        labels_fitted: Share of the training labels, as they were given, that the network predicts.
    """

    history: History
    seconds: float
    labels_fitted: float


def report(
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    trained: Mapping[str, Sequence[Trained]],
    times: StepTimes,
) -> dict[str, Any]:
    """Everything that a comparison found.

    Returns:
        Nested dictionaries; the numbers of a run are those of its last epoch, but for the best
        accuracy, and how much was perturbed is the mean over the run.
    """
    first = next(iter(configs.values()))
    costs = times.costs(tuple(configs))

    def found(name: str) -> dict[str, Any]:
        runs = trained[name]
        histories = [run.history for run in runs]

        def mean(key: str) -> float:
            return float(np.mean([getattr(history, key) for history in histories]))

        return {
            "config": dataclasses.replace(configs[name], seed=0).to_json(),
            **{key: over_seeds([getattr(h, key)[-1] for h in histories]) for key in LAST},
            "best_accuracy": over_seeds([max(h.validation_accuracy) for h in histories]),
            "labels_fitted": over_seeds([run.labels_fitted for run in runs]),
            "run_seconds": over_seeds([run.seconds for run in runs]),
            "perturbed_parameters": mean("perturbed_parameters"),
            "perturbed_layers": mean("perturbed_layers"),
            "step_cost": costs[name]._asdict(),
            "histories": [history.to_json() for history in histories],
        }

    return {
        **{key: getattr(first, key) for key in RECIPE},
        "seeds": list(seeds),
        "timing_rounds": len(times.seconds),
        "methods": {name: found(name) for name in configs},
        "environment": environment.describe(),
    }


def table(report: Mapping[str, Any]) -> Table:
    """What `report` returned as a table."""
    seeds = len(report["seeds"])
    noise = f", {100 * report['label_noise']:g} % of the training labels drawn anew"
    lost = report.get("failures", {})
    left_out = f" Left out, as their loss was not finite: {'; '.join(lost)}." if lost else ""
    of_seeds = f"Mean ± sample standard deviation of {seeds} seeds" if seeds > 1 else "One seed"

    def percent(name: str) -> Callable[[Any], str]:
        return lambda row: statistics_text(row[name], 1, scale=100)

    columns: dict[str, Callable[[Any], str]] = {
        "accuracy\n(last, %)": percent("validation_accuracy"),
        "accuracy\n(best, %)": percent("best_accuracy"),
        "labels\nfitted (%)": percent("labels_fitted"),
        "cost of\na step": lambda row: f"{row['step_cost']['mean']:.2f}",
        "time of\na run (s)": lambda row: f"{row['run_seconds']['mean']:.1f}",
    }
    return tables.table(
        "method",
        report["methods"],
        columns,
        title=f"{report['model']} on {report['data']}{noise if report['label_noise'] else ''}, "
        f"{report['epochs']} epochs of batches of {report['batch_size']}",
        caption=(
            f"{of_seeds}. Accuracy: on the test images, whose labels are clean; the best epoch is "
            "chosen by them. Labels fitted: of the training labels as given, the last epoch. Cost: "
            "of a whole training step relative to SGD, measured interleaved, mean over the kinds "
            f"of step. Time: of training, without compilation and evaluation.{left_out}"
        ),
    )
