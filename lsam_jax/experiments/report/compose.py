"""From a directory of runs to its report: read, composed, written."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lsam_jax.experiments import files
from lsam_jax.experiments.report import page
from lsam_jax.experiments.report.figures import (
    costs,
    curves,
    distances,
    landscapes,
    layers,
    sharpness,
)
from lsam_jax.experiments.report.numbers import accuracy, equal_time, settings
from lsam_jax.experiments.report.numbers import groups as grouping
from lsam_jax.experiments.report.numbers.accuracy import ComparedRow
from lsam_jax.experiments.report.numbers.groups import Group, task
from lsam_jax.experiments.report.numbers.study import Study, TableSpec, read_study
from lsam_jax.experiments.report.page import Block, Document, Section, Table, bullets, escaped
from lsam_jax.experiments.statistics import counted, listed, spoken

PAPER = (
    "[Lee, “Layer-wise Adaptive Gradient Norm Penalizing Method for Efficient and Accurate Deep "
    "Learning”, KDD 2024](https://doi.org/10.1145/3637528.3671728)"
)


class Written(NamedTuple):
    """The files of a report.

    Attributes:
        html: All in one file.
        markdown: The same, with its pictures beside it.
        pictures: PNGs, in reading order.
    """

    html: Path
    markdown: Path
    pictures: tuple[Path, ...]


def report(
    directory: files.PathLike, out: files.PathLike | None = None, *, title: str | None = None
) -> Written:
    """Turns the runs below a directory into ``report.html`` and ``report.md``.

    With ``study.json`` they are grouped as it says, and its tables are filled; without, runs that
    differ in the seed alone are one group, and all groups of one recipe one table.

    Args:
        directory: With runs of `lsam-jax train` anywhere below.
        out: Where the two files go, and the pictures of the second into ``report/``; None for
            `directory`. Old files of these names are replaced.
        title: None for one from what was run.

    Returns:
        What was written.

    Raises:
        ValueError: When there is no run, or a file of the study is damaged. A damaged run does not
            stop the others: the report names it.
        OSError: When `out` cannot be written.
    """
    study = read_study(Path(directory))
    place = files.writable_directory(directory if out is None else out)
    html, markdown, *pictures = page.write(compose(study, title), place, "report", "report")
    return Written(html, markdown, tuple(pictures))


def compose(study: Study, title: str | None = None) -> Document:
    """Says everything that was found."""
    return Document(title or _title(study), _lead(study), tuple(_sections(study)))


def _sections(study: Study) -> Iterator[Section]:
    groups = list(study.groups.values())
    runs = [run for group in groups for run in group.runs]
    if study.troubles:
        yield _troubles(study)
    for spec in study.tables:
        yield _of_table(study, spec)
    if views := landscapes.views(groups):
        around = (landscapes.contours(view, f"landscape-{view.name}") for view in views)
        whole = landscapes.whole_model(views, "landscape-model")
        yield Section(
            "Loss landscapes", (*whole, *landscapes.surfaces(views, "landscape-layers"), *around)
        )
    if measured := sharpness.measured(groups):
        layers_of = sharpness.by_layer(measured, "sharpness-layers")
        yield Section("Sharpness", (sharpness.table(measured), layers_of))
    if study.distances is not None:
        labels = {group.name: group.label for group in groups}
        between = distances.heat_map(study.distances, labels, "distances")
        start = distances.from_start(study.distances, labels)
        yield Section("Distances between minima", (between, start))
    if groups:
        yield Section("Settings", (settings.own_settings(groups), settings.shared_settings(groups)))
    if any(run.environment for run in runs):
        yield Section("Environment", (settings.environments(runs),))
    if study.plan.command is not None:
        yield Section("How to repeat", (f"```sh\n{study.plan.command}\n```",))


def _title(study: Study) -> str:
    what = listed([spoken(name) for name in study.plan.names])
    tasks = listed(list(dict.fromkeys(task(g.config) for g in study.groups.values())))
    return ": ".join(part for part in (what, tasks) if part) or "Runs of lsam-jax"


def _lead(study: Study) -> tuple[Block, ...]:
    groups = list(study.groups.values())
    runs = [run for group in groups for run in group.runs]
    seeds = sorted({run.seed for run in runs})
    count = counted(len(runs), "finished run")
    tasks = dict.fromkeys(task(group.config) for group in groups)
    words = (
        f"{listed(list(tasks))}: {count} of {counted(len(groups), 'configuration')}"
        if groups
        else count
    )
    if seeds:
        words += f", seed{'' if len(seeds) == 1 else 's'} {listed([str(seed) for seed in seeds])}"
    out = [trouble for trouble in study.troubles if trouble.kind != "partly unreadable"]
    if out:
        words += f"; {len(out)} run{' is' if len(out) == 1 else 's are'} left out, listed below"
    blocks: list[Block] = [
        escaped(f"{words}. The last epoch counts; no best epoch is ever chosen.")
    ]
    if study.plan.says:
        blocks += ["The scale of these runs:", bullets(study.plan.says)]
    if any(row.published for spec in study.tables for row in spec.rows):
        blocks.append(f"Published numbers are those of {PAPER}.")
    return tuple(blocks)


def _troubles(study: Study) -> Section:
    rows = tuple((trouble.run, trouble.kind, trouble.reason) for trouble in study.troubles)
    caption = "These runs are in no table and no picture, but for those that are partly unreadable."
    return Section(
        "Runs that are left out", (Table(caption, ("run", "state", "why"), rows, is_prose=True),)
    )


def _of_table(study: Study, spec: TableSpec) -> Section:
    found = accuracy.lines(study, spec)
    main = accuracy.accuracy_table(spec, found)
    groups = [line.group for line in found if line.group is not None]
    if not groups:
        return Section.of(spec.title, main)
    name, short = spec.name, spec.short
    return Section.of(
        spec.title,
        main,
        accuracy.measures_table(study, found),
        Section.of(
            f"{short}: curves",
            curves.learning(groups, f"{name}-curves"),
            curves.gradient_norms(groups, f"{name}-gradient-norm"),
            curves.radii(groups, f"{name}-radius"),
        ),
        _equal_time(study, spec, found, groups),
        Section.of(
            f"{short}: layers",
            layers.heat_maps(groups, f"{name}-layer-norms"),
            layers.perturbations(groups, f"{name}-perturbations"),
        ),
    )


def _equal_time(
    study: Study, spec: TableSpec, found: list[ComparedRow], groups: list[Group]
) -> Section | None:
    scales = equal_time.scales(study, found)
    if not scales:
        return None
    recipe = grouping.recipe(scales[0].base.config)
    shown = [group for group in groups if grouping.recipe(group.config) == recipe]
    return Section.of(
        f"{spec.short}: cost and accuracy at equal time",
        costs.scatter(scales, shown, f"{spec.name}-cost"),
        *(equal_time.table(scale, found) for scale in scales),
        *(costs.at_equal_time(x, shown, f"{spec.name}-equal-time-{x.kind}") for x in scales),
    )
