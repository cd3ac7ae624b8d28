"""Runs that differ in nothing but the seed, and what makes groups comparable."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lsam_jax.experiments.files import flat
from lsam_jax.experiments.report.reading import Run, passes_of_epoch

LENGTH = ("epochs", "passes")
METHOD = ("method", "options", "k", "rho", "alpha", "normalize")
"""The last four were fields of their own in earlier versions."""


class Trouble(NamedTuple):
    """A run that is left out, and why."""

    run: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The finished runs of one configuration, in the order of their seeds."""

    name: str
    label: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the first seed."""
        return self.runs[0].config

    @property
    def passes(self) -> int:
        """Over the training images in a run."""
        return int(self.config["epochs"]) * passes_of_epoch(self.config)

    @property
    def steps(self) -> float:
        """Of a run."""
        return self.runs[0].last("step")

    @property
    def layers(self) -> tuple[str, ...]:
        """Of the network, from the input to the output."""
        return self.runs[0].layers

    def last(self, name: str) -> dict[int, float]:
        """A number of the last epoch, by seed."""
        return {run.seed: run.last(name) for run in self.runs}


def recipe(config: Mapping[str, Any]) -> str:
    """All that methods must share to be compared."""
    left_out = {"seed", *LENGTH, *METHOD}
    return json.dumps({k: v for k, v in config.items() if k not in left_out}, sort_keys=True)


def method(config: Mapping[str, Any]) -> str:
    """How a configuration differentiates."""
    return json.dumps([config.get(name) for name in METHOD], sort_keys=True)


def baselines(groups: Iterable[Group], config: Mapping[str, Any]) -> list[Group]:
    """Runs of SGD under a configuration's recipe, the shortest first."""
    found = [
        g for g in groups if g.config["method"] == "sgd" and recipe(g.config) == recipe(config)
    ]
    return sorted(found, key=lambda group: group.passes)


def baseline(groups: Iterable[Group], config: Mapping[str, Any]) -> Group | None:
    """What a configuration is compared with: SGD for as long, or else its shortest run.

    SGD itself is compared with its shortest run.
    """
    found = baselines(groups, config)
    passes = int(config["epochs"]) * passes_of_epoch(config)
    as_long = [g for g in found if g.passes == passes and config["method"] != "sgd"]
    return next(iter([*as_long, *found]), None)


def same_but(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs beside the seed, in words; fields that only one version knows do not count."""
    there, plan = flat(config), flat(wanted)
    return [
        f"{name}={there[name]} there, {name}={plan[name]} in the plan"
        for name in sorted(there.keys() & plan.keys() - {"seed"})
        if there[name] != plan[name]
    ]
