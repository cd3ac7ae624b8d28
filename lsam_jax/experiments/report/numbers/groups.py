"""Runs that differ in nothing but the seed, and what makes groups comparable."""

import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lsam_jax.experiments.config.methods import METHODS
from lsam_jax.experiments.files import flat
from lsam_jax.experiments.report.numbers.read_run import RecordedRun, passes_of_epoch
from lsam_jax.experiments.statistics import Spread, spread

LENGTH = ("epochs", "passes")
METHOD = ("method", "options", "k", "rho", "alpha", "normalize")
"""The last four were fields of their own in earlier versions."""


class SkippedRun(NamedTuple):
    """A run that is left out, and why."""

    run: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The finished runs of one configuration, in the order of their seeds."""

    name: str
    label: str
    runs: tuple[RecordedRun, ...]

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

    @property
    def is_sgd(self) -> bool:
        """Whether nothing is perturbed."""
        return bool(self.config["method"] == "sgd")

    def last(self, name: str) -> dict[int, float]:
        """A number of the last epoch, by seed."""
        return {run.seed: run.last(name) for run in self.runs}

    def spread(self, name: str) -> Spread:
        """The same over all seeds."""
        return spread(list(self.last(name).values()))


def recipe(config: Mapping[str, Any]) -> str:
    """All that methods must share to be compared."""
    left_out = {"seed", *LENGTH, *METHOD}
    return json.dumps({k: v for k, v in config.items() if k not in left_out}, sort_keys=True)


def baselines(groups: Iterable[Group], config: Mapping[str, Any]) -> list[Group]:
    """Runs of SGD under a configuration's recipe, the shortest first."""
    found = [g for g in groups if g.is_sgd and recipe(g.config) == recipe(config)]
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


def grouped(
    runs: Sequence[RecordedRun], troubles: list[SkippedRun], taken: Collection[str] = ()
) -> dict[str, Group]:
    """Runs by their configurations without the seed.

    Args:
        runs: Finished ones.
        troubles: Gets those that repeat another's configuration and seed.
        taken: Names that other groups have.
    """
    members: dict[str, dict[int, RecordedRun]] = {}
    for run in runs:
        key = json.dumps({k: v for k, v in run.config.items() if k != "seed"}, sort_keys=True)
        seeds = members.setdefault(key, {})
        if run.seed in seeds:
            why = f"the same configuration and seed as {seeds[run.seed].name}"
            troubles.append(SkippedRun(run.name, "left out", why))
        else:
            seeds[run.seed] = run
    groups: dict[str, Group] = {}
    firsts = [next(iter(seeds.values())) for seeds in members.values()]
    for seeds, first in zip(members.values(), firsts, strict=True):
        alike = [run.config for run in firsts if run.config["method"] == first.config["method"]]
        label = _label(first.config, alike)
        name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        while name in groups or name in taken:
            name += "-"
        groups[name] = Group(name, label, tuple(seeds[seed] for seed in sorted(seeds)))
    # SGD first and the shortest of it, then as found.
    order = sorted(groups.values(), key=lambda g: (not g.is_sgd, g.passes))
    return {group.name: group for group in order}


def _label(config: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """The method and what tells it from the others of the same method."""
    method = str(config["method"])
    label = METHODS[method].label if method in METHODS else method
    apart = differing(alike)
    told = [f"{key.removeprefix('options.')}={flat(config).get(key)}" for key in apart]
    return f"{label} ({', '.join(told)})" if told else label


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings in which configurations differ, beside the seed."""
    all_flat = [flat(config) for config in configs]
    names = list(dict.fromkeys(name for config in all_flat for name in config if name != "seed"))
    return [n for n in names if len({json.dumps(config.get(n)) for config in all_flat}) > 1]


def seeds_text(groups: Iterable[Group]) -> str:
    """How many seeds lines are of."""
    counts = sorted({len(group.runs) for group in groups})
    if counts == [1]:
        return "one seed"
    return f"mean and range over {' or '.join(map(str, counts))} seeds"


def task(config: Mapping[str, Any]) -> str:
    """What was trained on what."""
    return f"{config.get('model', 'a model')} on {config.get('data', 'data')}"


def setting_names(configs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Settings that all share, and those in which some differ; options are told apart by method."""
    apart = [name for name in differing(configs) if name.partition(".")[0] not in METHOD]
    names = list(dict.fromkeys(n for config in configs for n in config))
    shared = [n for n in names if n not in apart and n not in METHOD and n not in ("seed", *LENGTH)]
    return shared, apart
