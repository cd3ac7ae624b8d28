"""What to call groups and tables that no plan has named."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lsam_jax.experiments.config.methods import METHODS
from lsam_jax.experiments.files import flat
from lsam_jax.experiments.report.groups import LENGTH, METHOD, Group, Trouble
from lsam_jax.experiments.report.reading import Run


def grouped(
    runs: Sequence[Run], troubles: list[Trouble], taken: Collection[str] = ()
) -> dict[str, Group]:
    """Runs by their configurations without the seed.

    Args:
        runs: Finished ones.
        troubles: Gets those that repeat another's configuration and seed.
        taken: Names that other groups have.
    """
    members: dict[str, dict[int, Run]] = {}
    for run in runs:
        key = json.dumps({k: v for k, v in run.config.items() if k != "seed"}, sort_keys=True)
        seeds = members.setdefault(key, {})
        if run.seed in seeds:
            why = f"the same configuration and seed as {seeds[run.seed].name}"
            troubles.append(Trouble(run.name, "left out", why))
        else:
            seeds[run.seed] = run
    groups: dict[str, Group] = {}
    firsts = [next(iter(seeds.values())) for seeds in members.values()]
    for seeds, first in zip(members.values(), firsts, strict=True):
        alike = [run for run in firsts if run.config["method"] == first.config["method"]]
        label = _label(first.config, [run.config for run in alike])
        name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        while name in groups or name in taken:
            name += "-"
        ordered = tuple(seeds[seed] for seed in sorted(seeds))
        groups[name] = Group(name, label, ordered)
    # SGD first and the shortest of it, then as found.
    order = sorted(groups.values(), key=lambda g: (g.config["method"] != "sgd", g.passes))
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


def task(config: Mapping[str, Any]) -> str:
    """What was trained on what."""
    return f"{config.get('model', 'a model')} on {config.get('data', 'data')}"


def short_title(name: str) -> str:
    """What headings call a table.

    Example:
        >>> short_title("table1")
        'Table 1'
    """
    found = re.fullmatch(r"(table|figure)(\d+)", name)
    return f"{found[1].capitalize()} {found[2]}" if found else name


def setting_names(configs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Settings that all share, and those in which some differ; options are told apart by method."""
    apart = [name for name in differing(configs) if name.partition(".")[0] not in METHOD]
    names = list(dict.fromkeys(n for config in configs for n in config))
    shared = [n for n in names if n not in apart and n not in METHOD and n not in ("seed", *LENGTH)]
    return shared, apart
