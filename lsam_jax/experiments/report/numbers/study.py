"""All runs below a directory: groups of seeds, tables to fill, and what is not there."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lsam_jax.experiments.config.former_names import in_todays_names
from lsam_jax.experiments.files import CHECKPOINTS, CONFIG, METRICS, read_json
from lsam_jax.experiments.report.numbers import groups as naming
from lsam_jax.experiments.report.numbers.groups import Group, SkippedRun, recipe, same_but
from lsam_jax.experiments.report.numbers.read_run import RecordedRun, UnreadableError, read_run

STUDY, COSTS, DISTANCES = "study.json", "costs.json", "distances.json"
COST = ("ratio", "low", "high")


class Row(NamedTuple):
    """A line of a table: a group's name, what to call it, what the paper reports of it."""

    run: str
    label: str
    published: Mapping[str, float]


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


@dataclasses.dataclass(frozen=True)
class Study:
    """What was found below a directory.

    Attributes:
        directory: Where.
        names: Of the study; empty without study.json.
        says: What the scale is, in words.
        command: That made the study, if it is recorded.
        groups: With at least one finished run, by name.
        tables: To fill; a row's group may be missing.
        troubles: Runs that are left out.
        costs: Measured cost of a step relative to the study's SGD, by name of a group.
        distances: See ``distances.json``; None where it is not there.
    """

    directory: Path
    names: tuple[str, ...]
    says: tuple[str, ...]
    command: str | None
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
    plan = _json(directory / STUDY) or {}
    runs, troubles = _runs(directory)
    if not runs and not troubles and not plan:
        raise ValueError(
            f"{str(directory)!r} holds no run of lsam-jax; give a directory with runs below it, "
            "such as the --out of lsam-jax train"
        )
    try:
        wanted = {
            name: (entry["label"], in_todays_names(entry["config"]))
            for name, entry in plan.get("runs", {}).items()
        }
        tables = [_table(entry) for entry in plan.get("tables", [])]
        seeds = [int(seed) for seed in plan.get("seeds", [])]
        says = tuple(plan.get("scale", {}).get("says", []))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{str(directory / STUDY)!r} is not the plan of a study ({error!r}); make it again, or "
            "move it away to have the runs grouped by their configurations"
        ) from error
    failures = dict(plan.get("failures", {}))
    planned, others = _planned(runs, wanted, troubles, failures)
    planned |= naming.grouped(others, troubles, taken=planned)
    _missing(planned, runs, wanted, seeds, failures, troubles)
    groups = {name: group for name, group in planned.items() if group.runs}
    names = plan.get("name", [])
    return Study(
        directory,
        (names,) if isinstance(names, str) else tuple(names),
        says,
        _command(plan.get("command")),
        groups,
        (*tables, *_rest(groups, tables)),
        tuple(sorted(troubles)),
        _costs(directory / COSTS, groups),
        _distances(directory / DISTANCES),
    )


def _runs(directory: Path) -> tuple[list[RecordedRun], list[SkippedRun]]:
    runs, troubles = [], []
    for path in _directories(directory):
        name = path.relative_to(directory).as_posix()
        try:
            run = read_run(path, path.name if name == "." else name)
        except UnreadableError as error:
            if (path / METRICS).exists() or (path / CHECKPOINTS).exists():
                troubles.append(SkippedRun(name, "unreadable", str(error)))
            continue
        troubles += [SkippedRun(name, "partly unreadable", why) for why in run.spoilt]
        runs.append(run)
    return runs, troubles


def _directories(directory: Path) -> Iterator[Path]:
    """Those with a configuration; there are no runs within a run."""
    for place, below, files in os.walk(directory):
        if CONFIG in files:
            below.clear()
            yield Path(place)
        below.sort()


def _planned(
    runs: list[RecordedRun],
    wanted: Mapping[str, tuple[str, Any]],
    troubles: list[SkippedRun],
    failures: Mapping[str, str],
) -> tuple[dict[str, Group], list[RecordedRun]]:
    """The runs of the plan by their group, and all other finished ones."""
    found: dict[str, list[RecordedRun]] = {name: [] for name in wanted}
    others = []
    for run in runs:
        group = run.name.rpartition("/")[0]
        differences = same_but(run.config, wanted[group][1]) if group in wanted else []
        if not run.is_finished:
            state = f"at epoch {run.epochs} of {run.config['epochs']}"
            kind = "failed" if run.name in failures else "unfinished"
            why = f"; {failures[run.name]}" if run.name in failures else ""
            troubles.append(SkippedRun(run.name, kind, f"unfinished {state}{why}"))
        elif differences:
            why = f"another configuration than {STUDY} has: {'; '.join(differences)}"
            troubles.append(SkippedRun(run.name, "left out", why))
        elif group in wanted:
            found[group].append(run)
        else:
            others.append(run)
    groups = {
        name: Group(name, label, tuple(sorted(found[name], key=lambda run: run.seed)))
        for name, (label, _) in wanted.items()
    }
    return groups, others


def _missing(
    planned: Mapping[str, Group],
    runs: list[RecordedRun],
    wanted: Mapping[str, Any],
    seeds: list[int],
    failures: Mapping[str, str],
    troubles: list[SkippedRun],
) -> None:
    """Adds the runs of the plan that are not on disk."""
    there = {run.name for run in runs} | {trouble.run for trouble in troubles}
    for name, seed in itertools.product(wanted, seeds):
        run = f"{name}/seed{seed}"
        if run not in there and seed not in {run.seed for run in planned[name].runs}:
            kind = "failed" if run in failures else "missing"
            troubles.append(SkippedRun(run, kind, failures.get(run, "there is no such run")))


def _table(entry: Mapping[str, Any]) -> TableSpec:
    rows = tuple(
        Row(row["run"], row.get("label", row["run"]), row.get("published") or {})
        for row in entry["rows"]
    )
    title, caption = entry.get("title", entry["name"]), entry.get("caption", "")
    short = naming.short_title(entry["name"])
    return TableSpec(entry["name"], short, title, caption, entry.get("paper", ""), rows)


def _rest(groups: Mapping[str, Group], tables: list[TableSpec]) -> Iterator[TableSpec]:
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
    """By group; a measurement's names are those of groups, or of directories of runs."""
    runs = (_json(file) or {}).get("runs", {})
    costs = {}
    for name, group in groups.items():
        names = (name, *(part for run in group.runs for part in (run.name, Path(run.name).name)))
        key = next((key for key in names if key in runs), None)
        if key is None:
            continue
        try:
            costs[name] = {part: float(runs[key]["cost"][part]) for part in COST}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(file)!r} has no cost of {key!r}; make it again, or move it away"
            ) from error
    return costs


def _distances(file: Path) -> dict[str, Any] | None:
    found = _json(file)
    if found is None:
        return None
    lengths = {len(found.get(name, ())) for name in ("runs", "relative", "from_start")}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"{str(file)!r} does not have a distance for each run; make it again, or move it away"
        )
    return found


def _command(recorded: Any) -> str | None:
    return " ".join(map(str, recorded)) if isinstance(recorded, list) else recorded


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = read_json(file)
    except (ValueError, OSError) as error:
        problem = str(error)
    else:
        if found is None or isinstance(found, dict):
            return found
        problem = "it is not a dictionary"
    raise ValueError(f"{str(file)!r} cannot be read ({problem}); make it again, or move it away")
