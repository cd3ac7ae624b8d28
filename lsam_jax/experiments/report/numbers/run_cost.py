"""What a whole run costs, and the run of SGD that was given as much."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.numbers.read_run import RecordedRun

SLACK = 0.01
"""By how much of a method's cost SGD's may fall short and still count as equal: costs are not known
more exactly."""


class CostScale:
    """A way to tell what training costs, in units of the baseline's whole run.

    Args:
        base: The baseline.
        measured: Cost of a step relative to the baseline's by name of a group; None counts
            floating-point operations instead.
    """

    def __init__(self, base: Group, measured: Mapping[str, Mapping[str, float]] | None = None):
        self._base, self._measured = base, measured

    def knows(self, group: Group) -> bool:
        """Whether it can tell the group's cost."""
        return self._measured is None or group.name in self._measured or _is_sgd(group)

    def step(self, group: Group) -> float:
        """Cost of a step relative to the baseline's, mean over all steps and seeds."""
        return self.total(group) * self._base.steps / group.steps

    def total(self, group: Group) -> float:
        """Cost of a run, mean over the seeds."""
        return float(np.mean([self.so_far(group, run)[-1] for run in group.runs]))

    def so_far(self, group: Group, run: RecordedRun) -> np.ndarray:
        """[E], cost of a run of the group after each epoch."""
        if self._measured is None:
            return run.gradients / self._base.steps
        # SGD's runs of any length take the same steps; measured differences are noise.
        ratio = 1.0 if _is_sgd(group) else self._measured[group.name]["ratio"]
        return ratio * run.numbers["step"] / self._base.steps


class Pairing(NamedTuple):
    """A method and the run of SGD to compare it with.

    Attributes:
        group: The method.
        cost: Of its runs.
        sgd: The cheapest that costs at least as much, or the longest there is.
        sgd_cost: Its cost.
        is_enough: Whether it costs at least as much.
    """

    group: Group
    cost: float
    sgd: Group
    sgd_cost: float
    is_enough: bool


def pair(group: Group, sgd: Sequence[Group], clock: CostScale) -> Pairing:
    """Finds the run of SGD that was given at least a method's cost.

    Args:
        group: The method.
        sgd: Runs of SGD of all lengths, at least one.
        clock: Which cost.
    """
    cost = clock.total(group)
    by_cost = sorted(((clock.total(one), i) for i, one in enumerate(sgd)))
    enough = [(total, i) for total, i in by_cost if total >= (1 - SLACK) * cost]
    total, i = enough[0] if enough else by_cost[-1]
    return Pairing(group, cost, sgd[i], total, bool(enough))


def _is_sgd(group: Group) -> bool:
    return bool(group.config["method"] == "sgd")
