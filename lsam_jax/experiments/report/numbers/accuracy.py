"""The numbers of a table's runs, beside the paper's and against the baseline's."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from lsam_jax.experiments import statistics
from lsam_jax.experiments.config.paper_results import Row
from lsam_jax.experiments.report.numbers import groups as grouping
from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.numbers.run_cost import CostScale
from lsam_jax.experiments.report.numbers.study import Study, TableSpec
from lsam_jax.experiments.report.page import Columns, Table
from lsam_jax.experiments.statistics import NOTHING

ACCURACY = "validation_accuracy"


class ComparedRow(NamedTuple):
    """A row of a table with what was found.

    Attributes:
        row: The plan's.
        group: Called as the row is; None where no run of it is finished.
        base: The baseline; None where there is none, and for the baseline itself.
        difference: In validation accuracy from the baseline.
        p: Adjusted for the table's other comparisons.
    """

    row: Row
    group: Group | None
    base: Group | None
    difference: statistics.Difference | None
    p: float | None = None


def compare(group: Group, base: Group) -> statistics.Difference:
    """The difference in the last accuracies of two groups."""
    return statistics.paired(group.last(ACCURACY), base.last(ACCURACY))


def accuracy_text(group: Group) -> str:
    """The last accuracy in %."""
    return statistics.spread_text(group.spread(ACCURACY), 2, 100)


def lines(study: Study, spec: TableSpec) -> list[ComparedRow]:
    """A table's rows with their comparisons."""
    found = []
    for row in spec.rows:
        group = study.groups.get(row.run)
        base = group and grouping.baseline(study.groups.values(), group.config)
        base = None if base is group else base
        difference = compare(group, base) if group and base else None
        found.append(ComparedRow(row, group and replace(group, label=row.label), base, difference))
    return statistics.adjusted(found)


def accuracy_table(spec: TableSpec, found: list[ComparedRow]) -> Table:
    """Validation accuracy at the last epoch, the paper's, the difference from the baseline."""
    has_paper = any("accuracy" in line.row.published for line in found)
    has_lengths = len({line.group.passes for line in found if line.group}) > 1
    columns: Columns = {
        "method": lambda line: line.row.label,
        "passes": _of_group(lambda group: str(group.passes)) if has_lengths else None,
        "seeds": _of_group(lambda group: str(len(group.runs)), "0"),
        "validation\naccuracy (%)": _of_group(accuracy_text, "no finished run"),
        "paper (%)": _published if has_paper else None,
        "difference\nfrom SGD": _difference,
        "95 % interval": lambda line: statistics.interval_text(line.difference, 2, 100),
        "p": lambda line: statistics.p_text(line.difference.p if line.difference else None),
        "p (Holm)": lambda line: statistics.p_text(line.p),
    }
    return Table.of(_caption(spec, found, has_lengths, has_paper), found, columns)


def measures_table(study: Study, found: list[ComparedRow]) -> Table:
    """What else the last epoch found, and what the method costs."""
    speeds = (x.row.published.get("throughput") for x in found if x.group and x.group.is_sgd)
    paper_speed = next(filter(None, speeds), None)

    def last(name: str, digits: int, scale: float = 1.0) -> Callable[[ComparedRow], str]:
        return _of_group(lambda group: statistics.spread_text(group.spread(name), digits, scale))

    def measured(group: Group) -> str:
        cost = study.costs.get(group.name)
        return f"{cost['mean']:.2f} ({cost['low']:.2f} to {cost['high']:.2f})" if cost else NOTHING

    def in_paper(line: ComparedRow) -> str:
        speed = line.row.published.get("throughput") if line.group else None
        return f"{paper_speed / speed:.2f}" if speed and paper_speed else NOTHING

    words = (
        "Last epoch, mean ± sample standard deviation over the seeds. Training loss and accuracy "
        "are means over the last epoch's batches as they were trained on, with augmentation and "
        "label smoothing where the recipe has them; the validation loss is without smoothing. "
        "Gradient norm: of the plain training loss over all parameters, on the same training "
        "images for all. Cost of a step relative to SGD: counted in floating-point operations of "
        "the gradient for the layers that were perturbed, mean over the run; measured as the time "
        "of a whole step that goes on from the last checkpoint, mean over the kinds of step "
        "(quartiles of all)."
    )
    if paper_speed:
        words += " The paper's cost is the ratio of its images per second to its SGD's."
    columns: Columns = {
        "method": lambda line: line.row.label,
        "training\naccuracy (%)": last("train_accuracy", 2, 100),
        "training\nloss": last("train_loss", 3),
        "validation\nloss": last("validation_loss", 3),
        "gradient\nnorm": last("gradient_norm", 3),
        "cost of a step,\ncounted": lambda line: (
            f"{CostScale(line.base or line.group).step(line.group):.2f}" if line.group else NOTHING
        ),
        "cost of a step,\nmeasured": _of_group(measured),
        "cost of a step,\npaper": in_paper if paper_speed else None,
    }
    return Table.of(words, found, columns)


def _caption(spec: TableSpec, found: list[ComparedRow], has_lengths: bool, has_paper: bool) -> str:
    compared = [line for line in found if line.difference is not None]
    tested = sum(line.difference.p is not None for line in compared if line.difference)
    words = [spec.caption] if spec.caption else []
    words.append(
        "Validation accuracy after the last epoch, never the best one; mean ± sample standard "
        "deviation over the seeds. Differences are in percentage points, paired: runs of one seed "
        "share their initial weights and the order of their batches."
    )
    if has_lengths:
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
            f"No test with less than {statistics.ENOUGH} seeds in common, or where all seeds "
            "differ by the same amount."
        )
    if has_paper:
        words.append(
            f"Paper: {spec.paper or 'published numbers'}, at the paper's own scale; beside a "
            "smaller scale it shows the order that was found there, not a target."
        )
    return " ".join(words)


def _of_group(
    cell: Callable[[Group], str], otherwise: str = NOTHING
) -> Callable[[ComparedRow], str]:
    """A cell of rows whose group has finished runs; else this is what is said."""
    return lambda line: cell(line.group) if line.group else otherwise


def _difference(line: ComparedRow) -> str:
    is_base = line.group is not None and line.base is None and line.group.is_sgd
    return "baseline" if is_base else statistics.difference_text(line.difference, 2, 100)


def _published(line: ComparedRow) -> str:
    accuracy, deviation = line.row.published.get("accuracy"), line.row.published.get("std")
    if accuracy is None:
        return NOTHING
    return f"{accuracy:.2f}" + (f" ± {deviation:.1f}" if deviation is not None else "")
