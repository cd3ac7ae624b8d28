"""The numbers of a table's runs, beside the paper's and against the baseline's."""

from collections.abc import Mapping
from typing import NamedTuple

from lsam_jax.experiments.report.numbers import groups as grouping
from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.numbers.run_cost import CostScale
from lsam_jax.experiments.report.numbers.study import Row, Study, TableSpec
from lsam_jax.experiments.report.page import Table
from lsam_jax.experiments.statistics import (
    ENOUGH,
    NOTHING,
    Difference,
    Spread,
    difference_text,
    holm,
    interval_text,
    p_text,
    paired,
    spread,
    spread_text,
)

ACCURACY = "validation_accuracy"


class ComparedRow(NamedTuple):
    """A row of a table with what was found.

    Attributes:
        row: The plan's.
        group: None where no run of it is finished.
        base: The baseline; None where there is none, and for the baseline itself.
        difference: In validation accuracy from the baseline.
        p: Adjusted for the table's other comparisons.
    """

    row: Row
    group: Group | None
    base: Group | None
    difference: Difference | None
    p: float | None


def lines(study: Study, spec: TableSpec) -> list[ComparedRow]:
    """A table's rows with their comparisons."""
    found = []
    for row in spec.rows:
        group = study.groups.get(row.run)
        base = group and grouping.baseline(study.groups.values(), group.config)
        if group is None or base is None or base is group:
            found.append(ComparedRow(row, group, None, None, None))
        else:
            difference = paired(group.last(ACCURACY), base.last(ACCURACY))
            found.append(ComparedRow(row, group, base, difference, None))
    adjusted = holm([line.difference.p if line.difference else None for line in found])
    return [line._replace(p=p) for line, p in zip(found, adjusted, strict=True)]


def accuracy_table(spec: TableSpec, found: list[ComparedRow]) -> Table:
    """Validation accuracy at the last epoch, the paper's, the difference from the baseline."""
    has_paper = any("accuracy" in line.row.published for line in found)
    lengths = {line.group.passes for line in found if line.group}
    columns = [
        "method",
        *(["passes"] if len(lengths) > 1 else []),
        "seeds",
        "validation\naccuracy (%)",
        *(["paper (%)"] if has_paper else []),
        "difference\nfrom SGD",
        "95 % interval",
        "p",
        "p (Holm)",
    ]
    rows = []
    for line in found:
        group, difference = line.group, line.difference
        is_base = group is not None and line.base is None and group.config["method"] == "sgd"
        rows.append(
            (
                line.row.label,
                *([str(group.passes) if group else NOTHING] if len(lengths) > 1 else []),
                str(len(group.runs)) if group else "0",
                spread_text(spread(list(group.last(ACCURACY).values())), 2, 100)
                if group
                else "no finished run",
                *([_published(line.row)] if has_paper else []),
                "baseline" if is_base else difference_text(difference, 2, 100),
                interval_text(difference, 2, 100),
                p_text(difference.p if difference else None),
                p_text(line.p),
            )
        )
    return Table(_caption(spec, found, has_paper), tuple(columns), tuple(rows))


def measures_table(study: Study, found: list[ComparedRow]) -> Table:
    """What else the last epoch found, and what the method costs."""
    speeds = {
        line.row.published["throughput"]: line.row
        for line in found
        if "throughput" in line.row.published
        and line.group is not None
        and line.group.config["method"] == "sgd"
    }
    paper_speed = next(iter(speeds), None)
    columns = [
        "method",
        "training\naccuracy (%)",
        "training\nloss",
        "validation\nloss",
        "gradient\nnorm",
        "cost of a step,\ncounted",
        "cost of a step,\nmeasured",
        *(["cost of a step,\npaper"] if paper_speed else []),
    ]
    rows = []
    for line in found:
        group = line.group
        if group is None:
            rows.append((line.row.label, *[NOTHING] * (len(columns) - 1)))
            continue
        base = line.base or group
        rows.append(
            (
                line.row.label,
                _last(group, "train_accuracy", 2, 100),
                _last(group, "train_loss", 3),
                _last(group, "validation_loss", 3),
                _last(group, "gradient_norm", 3),
                f"{CostScale(base).step(group):.2f}",
                _measured(study.costs.get(group.name)),
                *([_paper_cost(line.row, paper_speed)] if paper_speed else []),
            )
        )
    words = (
        "Last epoch, mean ± sample standard deviation over the seeds. Training loss and accuracy "
        "are means over the last epoch's batches as they were trained on, with augmentation and "
        "label smoothing where the recipe has them; the validation loss is without smoothing. "
        "Gradient norm: of the plain training loss over all parameters, on the same training "
        "images for all. Cost of a step relative to SGD: counted in floating-point operations of "
        "the gradient for the layers that were perturbed, mean over the run; measured as the time "
        "of a whole step that goes on from the last checkpoint, median (quartiles) of interleaved "
        "rounds."
    )
    if paper_speed:
        words += " The paper's cost is the ratio of its images per second to its SGD's."
    return Table(words, tuple(columns), tuple(rows))


def _caption(spec: TableSpec, found: list[ComparedRow], has_paper: bool) -> str:
    compared = [line for line in found if line.difference is not None]
    tested = sum(line.difference.p is not None for line in compared if line.difference)
    words = [spec.caption] if spec.caption else []
    words.append(
        "Validation accuracy after the last epoch, never the best one; mean ± sample standard "
        "deviation over the seeds. Differences are in percentage points, paired: runs of one seed "
        "share their initial weights and the order of their batches."
    )
    lengths = {line.group.passes for line in found if line.group}
    if len(lengths) > 1:
        words.append(
            "Passes: over the training images, in which these runs differ; a method is compared "
            "with SGD of as many, or else with its shortest run."
        )
    if tested:
        words.append(
            f"Interval and p value are those of a two-sided paired t-test; {tested} comparison"
            f"{'s were' if tested > 1 else ' was'} made, for which p (Holm) is adjusted."
        )
    if tested < len(compared):
        words.append(
            f"No test with less than {ENOUGH} seeds in common, or where all seeds differ by the "
            "same amount."
        )
    if has_paper:
        words.append(
            f"Paper: {spec.paper or 'published numbers'}, at the paper's own scale; beside a "
            "smaller scale it shows the order that was found there, not a target."
        )
    return " ".join(words)


def _last(group: Group, name: str, digits: int, scale: float = 1.0) -> str:
    return spread_text(spread(list(group.last(name).values())), digits, scale)


def spread_of(group: Group, name: str) -> Spread:
    """A number of the last epoch over a group's seeds."""
    return spread(list(group.last(name).values()))


def _published(row: Row) -> str:
    accuracy, deviation = row.published.get("accuracy"), row.published.get("std")
    if accuracy is None:
        return NOTHING
    return f"{accuracy:.2f}" + (f" ± {deviation:.1f}" if deviation is not None else "")


def _measured(cost: Mapping[str, float] | None) -> str:
    if cost is None:
        return NOTHING
    return f"{cost['ratio']:.2f} ({cost['low']:.2f} to {cost['high']:.2f})"


def _paper_cost(row: Row, of_sgd: float | None) -> str:
    speed = row.published.get("throughput")
    return f"{of_sgd / speed:.2f}" if speed and of_sgd else NOTHING
