"""Finished runs looked at: how sharp their minima are, and how far apart."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from lsam_jax import diagnostics
from lsam_jax.experiments import files, tables
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.errors import noted
from lsam_jax.experiments.study.evaluation_loss import Measured, Settings
from lsam_jax.experiments.study.landscapes import landscapes
from lsam_jax.experiments.study.sharpness import sharpness
from lsam_jax.experiments.training import finished_run, run_directory


def diagnose(
    directories: Sequence[files.PathLike],
    settings: Settings,
    *,
    with_landscapes: bool = False,
    again: bool = False,
    out: files.PathLike | None = None,
    data_dir: files.PathLike | None = None,
) -> dict[str, dict[str, Any]]:
    """Writes ``sharpness.json`` into each run, ``landscapes.npz`` if asked, and the distances.

    What is there already is not measured again. A run that fails leaves the others.

    Args:
        directories: Of finished runs of `lsam-jax train`.
        settings: What is measured.
        with_landscapes: Whether landscapes are.
        again: Whether to replace what is there.
        out: The directory for ``distances.json``, of several runs; None for the one that all of
            them are in.
        data_dir: Where TFDS keeps prepared data; None for its default.

    Returns:
        What ``sharpness.json`` holds, by run.

    Raises:
        ValueError: When a directory is named twice, or, at the end, when something failed.
        OSError: When `out` cannot be written.
    """
    paths = [Path(directory).resolve() for directory in directories]
    if len(set(paths)) < len(paths):
        raise ValueError(f"runs={' '.join(map(str, directories))} must name each run once")
    place = Path(os.path.commonpath(paths) if out is None else out)
    file = files.writable_file(place / files.DISTANCES) if len(paths) > 1 else None
    names = [_name(path, place) if file else path.name for path in paths]
    failures: dict[str, str] = {}
    runs = _load(dict(zip(names, paths, strict=True)), settings, data_dir, failures)
    if file is not None and len(runs) > 1:
        with noted(files.DISTANCES, failures):
            files.write_json(file, distances(runs))
    found = {}
    for name, run in runs.items():
        measured = Measured(run, settings, name)
        with noted(name, failures):
            found[name] = sharpness(measured, again=again)
        if with_landscapes:
            with noted(name, failures):
                landscapes(measured, again=again)
    if failures:
        raise ValueError(
            f"{'; '.join(f'{name}: {why}' for name, why in failures.items())} (all else is done)"
        )
    return found


def _load(
    paths: Mapping[str, Path], settings: Settings, data_dir: Any, failures: dict[str, str]
) -> dict[str, finished_run.Finished]:
    """The runs that can be measured."""
    data: dict[str, datasets.Dataset] = {}
    runs: dict[str, finished_run.Finished] = {}
    for name, path in paths.items():
        with noted(name, failures):
            of = run_directory.configuration(path).data
            data[of] = data.get(of) or datasets.load(of, data_dir)
            run = finished_run.load(path, data[of])
            settings.chosen(run.program.layers)  # complains before anything is computed
            runs[name] = run
    return runs


def distances(runs: Mapping[str, finished_run.Finished]) -> dict[str, Any]:
    """What ``distances.json`` holds: how far runs are from each other and from where they began.

    Raises:
        ValueError: When they are not of one network.
    """
    ends = [jax.device_get(run.state.params) for run in runs.values()]
    between = np.array([[diagnostics.distance_between(a, b).whole for b in ends] for a in ends])
    return {
        "runs": list(runs),
        "distance": between[..., 0].tolist(),
        "relative": between[..., 1].tolist(),
        "from_start": [
            diagnostics.distance_between(run.start, run.state.params).whole.euclidean
            for run in runs.values()
        ],
    }


def sharpness_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What `diagnose` returned as a table."""
    any_one = next(iter(found.values()))
    columns: dict[str, Callable[[Any], str]] = {
        "loss": lambda row: f"{files.number(row['train_loss']):.4f}",
        "rise": lambda row: f"{files.number(row['ball']['rise']):.4f}",
        "top eigenvalue": lambda row: f"{files.number(row['top_eigenvalue']):.4g}",
        "trace": lambda row: (
            f"{files.number(row['trace']['mean']):.4g} \u00b1 "
            f"{files.number(row['trace']['standard_error']):.2g}"
        ),
    }
    words = (
        f"Of the {any_one['loss']}, {any_one['images']} images. Rise: at the distance "
        f"{any_one['rho']} along the gradient. Trace: with the standard error of its probes."
    )
    return tables.table("run", found, columns, caption=words)


def _name(path: Path, place: Path) -> str:
    """A run's name: where it is, seen from the directory of the distances."""
    place = place.resolve()
    return path.relative_to(place).as_posix() if path.is_relative_to(place) else str(path)
