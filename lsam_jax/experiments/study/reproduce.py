"""Runs what a table or figure of the paper needs and is not there yet.

Everything is in one directory, the study: a directory for each cell, in it one for each seed, and
``study.json``, which says what belongs together. What is finished is not run again, what was
stopped goes on, and a run that fails leaves the others.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lsam_jax.experiments import files, statistics
from lsam_jax.experiments.config import overrides
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.presets import Preset
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.errors import noted
from lsam_jax.experiments.study.cells import CELLS, SCALES, changes, misfit
from lsam_jax.experiments.study.paper_tables import NAMES, Artefact, artefact
from lsam_jax.experiments.training.run_directory import configuration, differences
from lsam_jax.experiments.training.step import Program, build
from lsam_jax.experiments.training.train import train


class Study(NamedTuple):
    """What is to be there in the end.

    Attributes:
        preset: The recipe.
        scale: One of `cells.SCALES`.
        artefacts: The tables and figures, by name.
        configs: By cell, with seed 0.
        seeds: Of the runs of each cell.
        settings: Fields of `Config` that differ in all cells.
    """

    preset: Preset
    scale: str
    artefacts: Mapping[str, Artefact]
    configs: Mapping[str, Config]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]

    def runs(self) -> list[tuple[str, int]]:
        """Cells and seeds; seeds outside, so that what is there early is there for all."""
        return [(cell, seed) for seed in self.seeds for cell in self.configs]


def plan(
    names: Sequence[str],
    preset: Preset,
    scale: str,
    seeds: int,
    settings: Mapping[str, Any] | None = None,
) -> Study:
    """What tables and figures need.

    Args:
        names: Some of `paper_tables.NAMES`.
        preset: The recipe.
        scale: One of `cells.SCALES`.
        seeds: How many runs of each cell.
        settings: Fields of `Config` that differ from the scale's, for all cells.

    Raises:
        ValueError: When a name or value makes no sense.
    """
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r} is not known; choose one of {', '.join(SCALES)}")
    if seeds < 1:
        raise ValueError(f"seeds={seeds} must be at least 1")
    if scale != "paper" and preset.config.model == "vit_b16":
        raise ValueError(
            f"scale={scale!r} has no {preset.name}, whose network is pretrained; choose "
            "--scale paper or another preset"
        )
    shared = {**SCALES[scale], **(settings or {})}
    artefacts = {name: artefact(name, preset) for name in names}
    needed = dict.fromkeys(row.run for one in artefacts.values() for row in one.rows)
    configs = {cell: CELLS[cell].configure(preset, shared) for cell in needed}
    for config in configs.values():
        if scale != "paper" and (why := misfit(config)):
            raise ValueError(
                f"scale={scale!r} has no {preset.name}: {why}; choose --scale paper or another "
                "preset"
            )
    return Study(preset, scale, artefacts, configs, tuple(range(seeds)), shared)


def reproduce(
    study: Study,
    out: files.PathLike,
    *,
    data_dir: files.PathLike | None = None,
    weights: files.PathLike | None = None,
) -> dict[str, str]:
    """Runs what is missing.

    Returns:
        Why what is still missing is missing, in one line, by directory of the run.

    Raises:
        OSError, ValueError: When nothing can be run, or the directory holds other runs.
        Stopped: When a signal asked for it; everything is saved.
    """
    directory = files.writable_directory(out)
    missing = [(c, s) for c, s in study.runs() if not finished(directory, study, c, s)]
    needed = {study.configs[cell].data for cell, _ in missing}
    data = {name: datasets.load(name, data_dir) for name in needed}
    programs: dict[str, Program] = {}
    failures: dict[str, str] = {}
    write_study(directory, study, failures)
    for number, (cell, seed) in enumerate(missing, 1):
        name = f"{cell}/seed{seed}"
        print(f"[{number}/{len(missing)}] {name}", file=sys.stderr, flush=True)
        config = dataclasses.replace(study.configs[cell], seed=seed)
        with noted(name, failures):  # most of a table is better than none
            if cell not in programs:
                programs[cell] = build(config, data[config.data], weights=weights)
            train(config, directory / name, resume=True, weights=weights, program=programs[cell])
        if name in failures:
            write_study(directory, study, failures)
    return failures


def write_study(directory: Path, study: Study, failures: Mapping[str, str]) -> None:
    """Adds what is planned, and what failed, to what ``study.json`` has."""
    file = directory / files.STUDY
    before = _planned_before(file)
    tables = {one["name"]: one for one in before.get("tables", [])}
    tables |= {
        name: {
            "name": name,
            "title": one.title,
            "caption": one.caption,
            "paper": "" if name == "grid" else f"Lee, KDD 2024, {statistics.spoken(name)}",
            "rows": [row._asdict() for row in one.rows],
        }
        for name, one in study.artefacts.items()
        if not name.startswith("figure")  # a report draws them for every table
    }
    named = {*before.get("name", []), *study.artefacts}
    names = [name for name in NAMES if name in named]
    configs = {
        cell: {"label": CELLS[cell].label, "config": config.to_json()}
        for cell, config in study.configs.items()
    }
    tried = {f"{cell}/seed{seed}" for cell, seed in study.runs()}
    others = {name: why for name, why in before.get("failures", {}).items() if name not in tried}
    files.write_json(
        file,
        {
            "name": names,
            "command": _command(study, names),
            "preset": study.preset.name,
            "scale": {
                "name": study.scale,
                "says": changes(study.preset, next(iter(study.configs.values()))),
            },
            "seeds": sorted({*before.get("seeds", []), *study.seeds}),
            "runs": before.get("runs", {}) | configs,
            "tables": [tables[name] for name in NAMES if name in tables],
            "failures": others | dict(failures),
        },
    )


def _planned_before(file: Path) -> dict[str, Any]:
    """What ``study.json`` has."""
    found = files.read_json(file) or {}
    kinds = {"name": list, "tables": list, "seeds": list, "runs": dict, "failures": dict}
    is_plan = all(isinstance(found.get(name, kind()), kind) for name, kind in kinds.items())
    if not is_plan or not all(
        isinstance(one, dict) and "name" in one for one in found.get("tables", [])
    ):
        raise ValueError(
            f"{str(file)!r} is not the plan of a study; make it again, or move it away"
        )
    return found


def finished(directory: Path, study: Study, cell: str, seed: int) -> bool:
    """Whether a run of a study is there and whole, with its last checkpoint if it has any.

    Raises:
        ValueError: When another configuration is in its place.
    """
    run = directory / cell / f"seed{seed}"
    if not (run / files.CONFIG).is_file():
        return False
    wanted, there = dataclasses.replace(study.configs[cell], seed=seed), configuration(run)
    if there != wanted:
        found = differences(*({"config": x.to_json(), "origin": {}} for x in (there, wanted)))
        raise ValueError(
            f"{str(run)!r} holds a run of another configuration: {'; '.join(found)}; choose "
            "another --out"
        )
    metrics = run / files.METRICS
    lines = metrics.read_bytes().split(b"\n")[:-1] if metrics.is_file() else []
    if len(lines) < wanted.epochs:
        return False
    checkpoints = run / files.CHECKPOINTS
    if not checkpoints.is_dir():
        return True
    try:
        # An epoch's line is written before its checkpoint.
        return (checkpoints / str(json.loads(lines[-1])["step"])).is_dir()
    except (ValueError, KeyError, TypeError):
        return False


def _command(study: Study, names: Sequence[str]) -> str:
    usual = SCALES[study.scale]
    given = f"--preset {study.preset.name} --scale {study.scale} --seeds {len(study.seeds)}"
    extra = [
        f"--set {name}={overrides.text_of(x)}"
        for name, x in study.settings.items()
        if usual.get(name, study) != x
    ]
    return " ".join(["lsam-jax reproduce", *names, given, *extra])
