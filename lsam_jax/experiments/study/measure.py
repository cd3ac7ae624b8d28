"""What is measured of a study's runs once they are there: costs, sharpness, landscapes."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lsam_jax.experiments import files
from lsam_jax.experiments.bench.training_steps import costs_of_runs
from lsam_jax.experiments.errors import noted
from lsam_jax.experiments.models import registry
from lsam_jax.experiments.study.diagnose import diagnose
from lsam_jax.experiments.study.evaluation_loss import Settings
from lsam_jax.experiments.study.reproduce import Study, finished

ROUNDS = 15
SETTINGS: Mapping[str, Settings] = {
    "paper": Settings(),
    "cpu": Settings(images=128, probes=8, step=2),
}
"""Of sharpness and landscapes, by scale."""


def measure(
    study: Study,
    out: files.PathLike,
    *,
    data_dir: files.PathLike | None = None,
    weights: files.PathLike | None = None,
) -> dict[str, str]:
    """Writes what the tables and figures of a study need beside the runs; what is there stays.

    Returns:
        What could not be measured, and why. It leaves the rest.
    """
    directory, settings = Path(out), SETTINGS[study.scale]
    failures: dict[str, str] = {}
    there = [(cell, seed) for cell, seed in study.runs() if finished(directory, study, cell, seed)]

    def runs(cells: Iterable[str], seeds: Iterable[int]) -> list[Path]:
        wanted, some = set(cells), set(seeds)
        return [directory / c / f"seed{s}" for c, s in there if c in wanted and s in some]

    shown = study.artefacts.values()
    # Those with landscapes are among those looked at for sharpness, which come last: the distances
    # that are left are those of the larger set.
    drawn = runs((row.run for one in shown if one.landscapes for row in one.rows), study.seeds[:1])
    sharp = runs((row.run for one in shown for row in one.sharpness), study.seeds)
    model = next(iter(study.configs.values())).model
    if registry.preset(model).frozen is not None:
        print(f"no sharpness and no landscapes: part of {model} is not trained", file=sys.stderr)
        drawn = sharp = []
    places: dict[str, Any] = {"out": directory, "data_dir": data_dir}
    for name, some in (("landscapes", drawn), ("sharpness", sharp)):
        if some:
            with noted(name, failures):
                diagnose(some, settings, with_landscapes=name == "landscapes", **places)
    timed = runs((row.run for one in shown if one.costs for row in one.rows), study.seeds[:1])
    known, fresh = _timed(directory / files.COSTS)
    if {run.parent.name for run in timed} - fresh:
        # All of them anew, as costs are relative to one another within one measurement: to SGD's.
        together = sorted(
            {*timed, *known.values()}, key=lambda run: (run.parent.name != "sgd", run)
        )
        with noted("cost of a step", failures):
            costs_of_runs(
                together,
                ROUNDS,
                directory / files.COSTS,
                names=[run.parent.name for run in together],
                data_dir=data_dir,
                weights=weights,
            )
    return failures


def _timed(file: Path) -> tuple[dict[str, Path], set[str]]:
    """The runs whose steps a file of costs has, by cell, and the cells with a mean."""
    found, fresh = files.read_json(file) or {"runs": {}}, set()
    there: dict[str, Path] = {}
    try:
        for cell, row in found["runs"].items():
            there[cell] = file.parent / cell / f"seed{row['config']['seed']}"
            fresh |= {cell} if "mean" in row["cost"] else set()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(file)!r} does not have a cost for each run; make it again, or move it away"
        ) from error
    return there, fresh
