"""Methods beside the run of SGD that was given at least as much time."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from lsam_jax.experiments import statistics
from lsam_jax.experiments.report.numbers import groups as grouping
from lsam_jax.experiments.report.numbers.accuracy import ComparedRow, accuracy_text, compare
from lsam_jax.experiments.report.numbers.run_cost import SLACK, CostScale, Pairing
from lsam_jax.experiments.report.numbers.study import Study
from lsam_jax.experiments.report.page import Columns, Table

SHORT = "*"
HOW = {
    "counted": "Counted: floating-point operations of every step's gradient, for the layers that "
    "it perturbed, relative to a plain gradient.",
    "measured": "Measured: time of a whole step at the end of the first seed's run relative to "
    "SGD's, times the number of steps; SGD's own step costs 1 whatever its length, and so does one "
    "before perturb_from.",
}


def scales(study: Study, lines: Sequence[ComparedRow]) -> list[CostScale]:
    """Counted and, where there are measurements, measured; those that know a method of a table."""
    known = next((line.base for line in lines if line.base is not None), None)
    if known is None:
        return []
    sgd = grouping.baselines(study.groups.values(), known.config)
    lengths = Counter(line.group.passes for line in lines if line.group and not line.group.is_sgd)
    usual = lengths.most_common(1)[0][0] if lengths else known.passes
    base = next((group for group in sgd if group.passes == usual), sgd[0])
    found = [CostScale(base, costs, sgd) for costs in (None, study.costs) if costs != {}]
    return [s for s in found if any(line.group and s.compares(line.group) for line in lines)]


class _Row(NamedTuple):
    pair: Pairing
    difference: statistics.Difference
    p: float | None = None


def table(scale: CostScale, lines: Sequence[ComparedRow]) -> Table:
    """Every method beside the run of SGD that cost at least as much."""
    groups = [line.group for line in lines if line.group and scale.compares(line.group)]
    rows = statistics.adjusted(_Row(x, compare(x.group, x.sgd)) for x in map(scale.pair, groups))
    tested = sum(row.difference.p is not None for row in rows)
    longest = max(scale.sgd, key=lambda group: group.passes)
    but = "" if all(row.pair.is_enough for row in rows) else f", but where marked {SHORT}"
    words = (
        f"Cost of a run, {scale.kind}, in runs of SGD of {scale.base.passes} passes; for each "
        "method the run of SGD with the least cost that is at least the method's (to "
        f"{SLACK:.0%}), with the same schedule stretched to its length. SGD is given no "
        f"less time{but}. {HOW[scale.kind]} Accuracies (%) and differences (percentage points, "
        "paired by seed) after the last epoch."
    )
    if tested:
        words += f" {statistics.counted(tested, 'comparison')}, for which p (Holm) is adjusted."
    if but:
        words += (
            f" {SHORT} No run of SGD cost as much; this is the longest, of {longest.passes} "
            "passes, and the comparison favours the method."
        )
    columns: Columns = {
        "method": lambda row: row.pair.group.label,
        "cost": lambda row: f"{row.pair.cost:.2f}",
        "validation\naccuracy (%)": lambda row: accuracy_text(row.pair.group),
        "SGD with\nat least as much": lambda row: (
            f"{row.pair.sgd.passes} passes{'' if row.pair.is_enough else ' ' + SHORT}"
        ),
        "its cost": lambda row: f"{row.pair.sgd_cost:.2f}",
        "its\naccuracy (%)": lambda row: accuracy_text(row.pair.sgd),
        "difference": lambda row: statistics.difference_text(row.difference, 2, 100),
        "95 % interval": lambda row: statistics.interval_text(row.difference, 2, 100),
        "p": lambda row: statistics.p_text(row.difference.p),
        "p (Holm)": lambda row: statistics.p_text(row.p),
    }
    return Table.of(words, rows, columns)
