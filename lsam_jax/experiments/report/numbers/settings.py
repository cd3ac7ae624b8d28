"""What the runs were made with: settings, environments, the command."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lsam_jax.experiments.files import flat
from lsam_jax.experiments.report.numbers.groups import LENGTH, Group, setting_names
from lsam_jax.experiments.report.numbers.read_run import RecordedRun
from lsam_jax.experiments.report.page import Table
from lsam_jax.experiments.statistics import NOTHING, listed

DATE = "date"
NAMED = 6
"""Runs that are named one by one."""


def shared_settings(groups: Sequence[Group]) -> Table:
    """What all configurations have in common."""
    names, _ = setting_names([group.config for group in groups])
    first = groups[0].config
    rows = tuple((name, _text(first.get(name))) for name in names)
    return Table(
        "Settings that all of these runs share.", ("setting", "value"), rows, is_prose=True
    )


def own_settings(groups: Sequence[Group]) -> Table:
    """What each configuration has for itself."""
    _, apart = setting_names([group.config for group in groups])
    columns = (*LENGTH, *(name for name in apart if name not in LENGTH))
    rows = tuple(
        (
            group.label,
            listed([str(run.seed) for run in group.runs]),
            str(group.config["method"]),
            ", ".join(f"{k}={_text(v)}" for k, v in dict(group.config.get("options", {})).items())
            or NOTHING,
            *(_text(flat(group.config).get(name, 1 if name == "passes" else None))
              for name in columns),
        )
        for group in groups
    )  # fmt: skip
    return Table(
        "Settings of each configuration. Epochs: evaluations in a run; passes: over the training "
        "images in an epoch.",
        ("runs", "seeds", "method", "options", *columns),
        rows,
        is_prose=True,
    )


def environments(runs: Sequence[RecordedRun]) -> Table:
    """What the runs were made on; where they differ, each value with its runs."""
    known = [run for run in runs if run.environment]
    names = list(dict.fromkeys(name for run in known for name in run.environment))
    rows = tuple((name, _values(name, known)) for name in names)
    words = "Of the processes that began the runs."
    if len(known) < len(runs):
        without = listed([run.name for run in runs if not run.environment][:NAMED])
        words += f" Not recorded for {len(runs) - len(known)} of the runs: {without}."
    return Table(words, ("of the machine and its software", "value"), rows, is_prose=True)


def _values(name: str, runs: Sequence[RecordedRun]) -> str:
    members: dict[str, list[str]] = {}
    for run in runs:
        members.setdefault(_text(run.environment.get(name)), []).append(run.name)
    if name == DATE:
        days = sorted(members)
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    if len(members) == 1:
        return next(iter(members))
    return "; ".join(f"{value} ({_count(names)})" for value, names in members.items())


def _count(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= NAMED else f"{len(names)} runs"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if value == "":
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)
