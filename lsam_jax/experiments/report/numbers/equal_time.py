"""Methods beside the run of SGD that was given at least as much time."""

from collections import Counter
from collections.abc import Sequence

from lsam_jax.experiments.report.numbers import groups as grouping
from lsam_jax.experiments.report.numbers.accuracy import ACCURACY, ComparedRow, spread_of
from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.numbers.run_cost import SLACK, CostScale, Pairing, pair
from lsam_jax.experiments.report.numbers.study import Study
from lsam_jax.experiments.report.page import Table
from lsam_jax.experiments.statistics import (
    difference_text,
    holm,
    interval_text,
    p_text,
    paired,
    spread_text,
)

SHORT = "*"


class EqualCostComparison:
    """One baseline's recipe under one clock.

    Args:
        base: The baseline, whose whole run is the unit of cost.
        sgd: Runs of SGD of all lengths under its recipe.
        clock: How costs are told.
        kind: "counted" or "measured".
    """

    def __init__(self, base: Group, sgd: Sequence[Group], clock: CostScale, kind: str):
        self.base, self.sgd, self.clock, self.kind = base, sgd, clock, kind

    def includes(self, group: Group) -> bool:
        """Whether a group is under the baseline's recipe."""
        return grouping.recipe(group.config) == grouping.recipe(self.base.config)

    def pairs(self, lines: Sequence[ComparedRow]) -> list[tuple[str, Pairing]]:
        """Labels of a table's methods whose cost is known, each with its run of SGD."""
        return [
            (line.row.label, pair(line.group, self.sgd, self.clock))
            for line in lines
            if line.group is not None
            and line.group.config["method"] != "sgd"
            and self.includes(line.group)
            and self.clock.knows(line.group)
        ]


def contests(study: Study, lines: Sequence[ComparedRow]) -> list[EqualCostComparison]:
    """Counted and, where there are measurements, measured; none without SGD."""
    known = next((line.base for line in lines if line.base is not None), None)
    if known is None:
        return []
    sgd = grouping.baselines(study.groups.values(), known.config)
    lengths = Counter(
        line.group.passes for line in lines if line.group and line.group.config["method"] != "sgd"
    )
    usual = lengths.most_common(1)[0][0] if lengths else known.passes
    base = next((group for group in sgd if group.passes == usual), sgd[0])
    found = [EqualCostComparison(base, sgd, CostScale(base), "counted")]
    if study.costs:
        found.append(EqualCostComparison(base, sgd, CostScale(base, study.costs), "measured"))
    return [contest for contest in found if contest.pairs(lines)]


def table(contest: EqualCostComparison, lines: Sequence[ComparedRow]) -> Table:
    """Every method beside the run of SGD that cost at least as much."""
    pairs = contest.pairs(lines)
    differences = [paired(p.group.last(ACCURACY), p.sgd.last(ACCURACY)) for _, p in pairs]
    adjusted = holm([difference.p for difference in differences])
    rows = [
        (
            label,
            f"{found.cost:.2f}",
            spread_text(spread_of(found.group, ACCURACY), 2, 100),
            f"{found.sgd.passes} passes{'' if found.is_enough else ' ' + SHORT}",
            f"{found.sgd_cost:.2f}",
            spread_text(spread_of(found.sgd, ACCURACY), 2, 100),
            difference_text(difference, 2, 100),
            interval_text(difference, 2, 100),
            p_text(difference.p),
            p_text(p),
        )
        for (label, found), difference, p in zip(pairs, differences, adjusted, strict=True)
    ]
    tested = sum(difference.p is not None for difference in differences)
    longest = max(contest.sgd, key=lambda group: group.passes)
    but = "" if all(found.is_enough for _, found in pairs) else f", but where marked {SHORT}"
    words = (
        f"Cost of a run, {contest.kind}, in runs of SGD of {contest.base.passes} passes; for each "
        "method the run of SGD with the least cost that is at least the method's (to "
        f"{SLACK:.0%}), with the same schedule stretched to its length. SGD is given no "
        f"less time{but}. {_how(contest)} Accuracies (%) and differences (percentage points, "
        "paired by seed) after the last epoch."
    )
    if tested:
        words += f" {tested} comparison{'s' if tested > 1 else ''}, for which p (Holm) is adjusted."
    if but:
        words += (
            f" {SHORT} No run of SGD cost as much; this is the longest, of {longest.passes} "
            "passes, and the comparison favours the method."
        )
    columns = (
        "method",
        "cost",
        "validation\naccuracy (%)",
        "SGD with\nat least as much",
        "its cost",
        "its\naccuracy (%)",
        "difference",
        "95 % interval",
        "p",
        "p (Holm)",
    )
    return Table(words, columns, tuple(rows))


def _how(contest: EqualCostComparison) -> str:
    if contest.kind == "counted":
        return (
            "Counted: floating-point operations of every step's gradient, for the layers that it "
            "perturbed, relative to a plain gradient."
        )
    return (
        "Measured: time of a whole step at the end of the first seed's run relative to SGD's, "
        "times the number of steps; SGD's own step costs 1 whatever its length."
    )
