"""What a whole run costs, and the run of SGD that was given as much."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsam_jax.experiments.report.numbers.groups import Group, recipe
from lsam_jax.experiments.report.numbers.read_run import RecordedRun

SLACK = 0.01
"""By how much of a method's cost SGD's may fall short and still count as equal: costs are not known
more exactly."""


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


class CostScale(NamedTuple):
    """A way to tell what training costs, in units of the baseline's whole run.

    Attributes:
        base: The baseline.
        measured: Cost of a step relative to the baseline's by name of a group, of one that perturbs
            where a run does from some step on alone; None counts floating-point operations instead.
        sgd: Runs of SGD of all lengths under the baseline's recipe, for `pair`.
    """

    base: Group
    measured: Mapping[str, Mapping[str, float]] | None = None
    sgd: Sequence[Group] = ()

    @property
    def kind(self) -> str:
        """How costs are told, in a word."""
        return "counted" if self.measured is None else "measured"

    def knows(self, group: Group) -> bool:
        """Whether it can tell the group's cost."""
        return self.measured is None or group.name in self.measured or group.is_sgd

    def compares(self, group: Group) -> bool:
        """Whether it can tell a method's cost and the recipe is the baseline's."""
        same = recipe(group.config) == recipe(self.base.config)
        return same and not group.is_sgd and self.knows(group)

    def step(self, group: Group) -> float:
        """Cost of a step relative to the baseline's, mean over all steps and seeds."""
        return self.total(group) * self.base.steps / group.steps

    def total(self, group: Group) -> float:
        """Cost of a run, mean over the seeds."""
        return float(np.mean([self.so_far(group, run)[-1] for run in group.runs]))

    def so_far(self, group: Group, run: RecordedRun) -> np.ndarray:
        """[E], cost of a run of the group after each epoch."""
        if self.measured is None:
            return run.gradients / self.base.steps
        # SGD's runs of any length take the same steps; measured differences are noise.
        ratio = 1.0 if group.is_sgd else self.measured[group.name]["mean"]
        steps = run.numbers["step"]
        plain = (group.config["options"].get("perturb_from") or 0.0) * steps[-1]
        return (steps + (ratio - 1) * np.maximum(0, steps - plain)) / self.base.steps

    def pair(self, group: Group) -> Pairing:
        """A method with the run of SGD that was given at least its cost."""
        cost = self.total(group)
        by_cost = sorted((self.total(one), i) for i, one in enumerate(self.sgd))
        enough = [(total, i) for total, i in by_cost if total >= (1 - SLACK) * cost]
        total, i = enough[0] if enough else by_cost[-1]
        return Pairing(group, cost, self.sgd[i], total, bool(enough))
