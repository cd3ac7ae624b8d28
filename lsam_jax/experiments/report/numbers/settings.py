"""What the runs were made with: settings, environments, the command."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lsam_jax.experiments import files, statistics
from lsam_jax.experiments.report.numbers.groups import LENGTH, Group, setting_names
from lsam_jax.experiments.report.numbers.read_run import RecordedRun
from lsam_jax.experiments.report.page import Columns, Table

DATE = "date"
NAMED = 6
"""Runs that are named one by one."""


def shared_settings(groups: Sequence[Group]) -> Table:
    """What all configurations have in common."""
    names, _ = setting_names([group.config for group in groups])
    first = groups[0].config
    columns: Columns = {"setting": str, "value": lambda name: _text(first.get(name))}
    return Table.of("Settings that all of these runs share.", names, columns, is_prose=True)


def own_settings(groups: Sequence[Group]) -> Table:
    """What each configuration has for itself."""
    _, apart = setting_names([group.config for group in groups])
    usual = {"passes": 1}

    def value(name: str, group: Group) -> str:
        return _text(files.flat(group.config).get(name, usual.get(name)))

    def options(group: Group) -> str:
        found = dict(group.config.get("options", {}))
        return ", ".join(f"{name}={_text(x)}" for name, x in found.items()) or statistics.NOTHING

    columns: Columns = {
        "runs": lambda group: group.label,
        "seeds": lambda group: statistics.listed([str(run.seed) for run in group.runs]),
        "method": lambda group: str(group.config["method"]),
        "options": options,
        **{name: partial(value, name) for name in dict.fromkeys((*LENGTH, *apart))},
    }
    words = (
        "Settings of each configuration. Epochs: evaluations in a run; passes: over the training "
        "images in an epoch."
    )
    return Table.of(words, groups, columns, is_prose=True)


def environments(runs: Sequence[RecordedRun]) -> Table:
    """What the runs were made on; where they differ, each value with its runs."""
    known = [run for run in runs if run.environment]
    names = dict.fromkeys(name for run in known for name in run.environment)
    words = "Of the processes that began the runs."
    if len(known) < len(runs):
        without = statistics.listed([run.name for run in runs if not run.environment][:NAMED])
        words += f" Not recorded for {len(runs) - len(known)} of the runs: {without}."
    columns: Columns = {
        "of the machine and its software": str,
        "value": lambda name: _values(name, known),
    }
    return Table.of(words, names, columns, is_prose=True)


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
    return statistics.listed(names) if len(names) <= NAMED else f"{len(names)} runs"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if value == "":
        return statistics.NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)
