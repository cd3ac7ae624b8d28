"""All runs below a directory: groups of seeds, tables to fill, and what is not there."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lsam_jax.experiments import files, statistics
from lsam_jax.experiments.config.methods import in_todays_names
from lsam_jax.experiments.config.paper_results import Row
from lsam_jax.experiments.report.numbers import groups as naming
from lsam_jax.experiments.report.numbers.groups import Group, SkippedRun, recipe, same_but
from lsam_jax.experiments.report.numbers.read_run import RecordedRun, UnreadableError, read_run

COST = ("mean", "low", "high")


class TableSpec(NamedTuple):
    """A table to fill; `paper` says where the published numbers are from, "" where there are none.

    `short` is what headings call it.
    """

    name: str
    short: str
    title: str
    caption: str
    paper: str
    rows: tuple[Row, ...]


class Plan(NamedTuple):
    """What ``study.json`` says; empty without it.

    Attributes:
        names: Of the study.
        says: What the scale is, in words.
        command: That made the study, if it is recorded.
        wanted: Label and configuration of each group, by name.
        seeds: Of the runs of each group.
        tables: To fill; a row's group may be missing.
        failures: Why runs failed, by name.
    """

    names: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    command: str | None = None
    wanted: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({})
    seeds: tuple[int, ...] = ()
    tables: tuple[TableSpec, ...] = ()
    failures: Mapping[str, str] = MappingProxyType({})


class Study(NamedTuple):
    """What was found below a directory.

    Attributes:
        plan: What was to be there.
        groups: With at least one finished run, by name.
        tables: The plan's, and those of what it does not have.
        troubles: Runs that are left out.
        costs: Measured cost of a step relative to the study's SGD, by name of a group.
        distances: See ``distances.json``; None where it is not there.
    """

    plan: Plan
    groups: Mapping[str, Group]
    tables: tuple[TableSpec, ...]
    troubles: tuple[SkippedRun, ...]
    costs: Mapping[str, Mapping[str, float]]
    distances: Mapping[str, Any] | None


def read_study(directory: Path) -> Study:
    """Reads everything.

    Raises:
        ValueError: When there is no directory or no run, or a file of the study is damaged.
    """
    if not directory.is_dir():
        raise ValueError(f"{str(directory)!r} is not a directory; give one that holds runs")
    plan = _plan(directory / files.STUDY)
    runs, troubles = _runs(directory)
    if not runs and not troubles and plan is None:
        raise ValueError(
            f"{str(directory)!r} holds no run of lsam-jax; give a directory with runs below it, "
            "such as the --out of lsam-jax train"
        )
    plan = plan or Plan()
    groups = _planned(runs, plan, troubles)
    return Study(
        plan,
        groups,
        (*plan.tables, *_rest(groups, plan.tables)),
        tuple(sorted(troubles)),
        _costs(directory / files.COSTS, groups),
        _distances(directory / files.DISTANCES),
    )


def _plan(file: Path) -> Plan | None:
    found = files.read_json(file)
    if not found:
        return None
    try:
        return Plan(
            tuple(found.get("name", [])),
            tuple(found.get("scale", {}).get("says", [])),
            found.get("command"),
            {
                name: (entry["label"], in_todays_names(entry["config"]))
                for name, entry in found.get("runs", {}).items()
            },
            tuple(map(int, found.get("seeds", []))),
            tuple(map(_table, found.get("tables", []))),
            dict(found.get("failures", {})),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} is not the plan of a study ({error!r}); make it again, or move it away "
            "to have the runs grouped by their configurations"
        ) from error


def _runs(directory: Path) -> tuple[list[RecordedRun], list[SkippedRun]]:
    runs, troubles = [], []
    for path in _directories(directory):
        name = path.relative_to(directory).as_posix()
        try:
            run = read_run(path, path.name if name == "." else name)
        except UnreadableError as error:
            if (path / files.METRICS).exists() or (path / files.CHECKPOINTS).exists():
                troubles.append(SkippedRun(name, "unreadable", str(error)))
            continue
        troubles += [SkippedRun(name, "partly unreadable", why) for why in run.spoilt]
        runs.append(run)
    return runs, troubles


def _directories(directory: Path) -> Iterator[Path]:
    """Those with a configuration; there are no runs within a run's checkpoints."""
    for place, below, names in os.walk(directory):
        if files.CONFIG in names:
            below[:] = [name for name in below if name != files.CHECKPOINTS]
            yield Path(place)
        below.sort()


def _planned(runs: list[RecordedRun], plan: Plan, troubles: list[SkippedRun]) -> dict[str, Group]:
    """Finished runs by their group: those of the plan, and then all others.

    What is left out, and what of the plan is not there, goes to the troubles.
    """
    found: dict[str, list[RecordedRun]] = {name: [] for name in plan.wanted}
    others: list[RecordedRun] = []
    for run in runs:
        group = run.name.rpartition("/")[0]
        differences = same_but(run.config, plan.wanted[group][1]) if group in found else []
        if not run.is_finished:
            kind, why = "unfinished", f"unfinished at epoch {run.epochs} of {run.config['epochs']}"
            if run.name in plan.failures:
                kind, why = "failed", f"{why}; {plan.failures[run.name]}"
            troubles.append(SkippedRun(run.name, kind, why))
        elif differences:
            why = f"another configuration than {files.STUDY} has: {'; '.join(differences)}"
            troubles.append(SkippedRun(run.name, "left out", why))
        else:
            found.get(group, others).append(run)
    groups = {
        name: Group(name, plan.wanted[name][0], tuple(sorted(some, key=lambda run: run.seed)))
        for name, some in found.items()
    }
    groups |= naming.grouped(others, troubles, taken=groups)
    there = {run.name for run in runs} | {trouble.run for trouble in troubles}
    for name, seed in itertools.product(plan.wanted, plan.seeds):
        run_name = f"{name}/seed{seed}"
        if run_name not in there and seed not in {run.seed for run in groups[name].runs}:
            kind = "failed" if run_name in plan.failures else "missing"
            why = plan.failures.get(run_name, "there is no such run")
            troubles.append(SkippedRun(run_name, kind, why))
    return {name: group for name, group in groups.items() if group.runs}


def _table(entry: Mapping[str, Any]) -> TableSpec:
    name, title, caption, paper = (entry[key] for key in ("name", "title", "caption", "paper"))
    rows = tuple(Row(row["run"], row["label"], row["published"]) for row in entry["rows"])
    return TableSpec(name, statistics.spoken(name), title, caption, paper, rows)


def _rest(groups: Mapping[str, Group], tables: Sequence[TableSpec]) -> Iterator[TableSpec]:
    """Tables of the groups that none has, one for each recipe."""
    shown = {row.run for table in tables for row in table.rows}
    recipes: dict[Any, list[Group]] = {}
    for name, group in groups.items():
        if name not in shown:
            recipes.setdefault(recipe(group.config), []).append(group)
    for number, members in enumerate(recipes.values(), start=1):
        short = "Other runs" if tables else "All runs"
        again = f" ({number})" if len(recipes) > 1 else ""
        title = f"{short}: {naming.task(members[0].config)}"
        rows = tuple(Row(group.name, group.label, {}) for group in members)
        yield TableSpec(f"runs{number}", short + again, title + again, "", "", rows)


def _costs(file: Path, groups: Mapping[str, Group]) -> dict[str, dict[str, float]]:
    """By group; a measurement's names are those of groups, or of directories of runs.

    One without a mean, as earlier versions wrote them, is left out: it is the median of single
    steps, which need not all cost the same.
    """
    runs = (files.read_json(file) or {}).get("runs", {})
    known = {
        name: (name, *(part for run in group.runs for part in (run.name, Path(run.name).name)))
        for name, group in groups.items()
    }
    owners = Counter(key for names in known.values() for key in set(names))
    costs = {}
    for name, names in known.items():
        key = next((key for key in names if key in runs and owners[key] == 1), None)
        if key is None:
            continue
        try:
            cost = runs[key]["cost"]
            if "mean" in cost:
                costs[name] = {part: float(cost[part]) for part in COST}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(file)!r} has no cost of {key!r}; make it again, or move it away"
            ) from error
    return costs


def _distances(file: Path) -> dict[str, Any] | None:
    found = files.read_json(file)
    if found is None:
        return None
    lengths = {len(found.get(name, ())) for name in ("runs", "relative", "from_start")}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"{str(file)!r} does not have a distance for each run; make it again, or move it away"
        )
    return found
