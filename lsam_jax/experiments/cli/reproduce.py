"""Run what a table or figure of the layer-wise SAM paper needs, and report it.

Runs what is missing in --out for the tables and figures named, resumes what was stopped, and writes
a report. A run that several of them need is made once. At --scale paper the preset is that of the
paper; --scale cpu takes fewer images, epochs and channels, and says so wherever it shows a number.
"""

import argparse
from pathlib import Path
from typing import Any

from lsam_jax.experiments.cli import options
from lsam_jax.experiments.errors import IncompleteError


def add(commands: Any) -> None:
    """Adds the command."""
    option = options.add_command(commands, "reproduce", run, __doc__)
    names = "table1 (methods), table2 (costs), table3 (which layers), table4 (how many layers), "
    names += "figure1 ... figure6, grid (rho, alpha and normalisation); or, alone, frontier: what "
    names += "share of SAM's gain each cheaper method keeps, at which price"
    option("names", nargs="+", metavar="NAME", help=names)
    option("--scale", default="cpu", metavar="NAME", help="paper or cpu")
    option("--preset", default="cifar10-resnet20", metavar="NAME", help="see lsam-jax list")
    option("--seeds", type=int, default=3, metavar="N", help="runs of each: 0 ... N-1")
    option("--out", default="runs/reproduce", metavar="DIR", help="of all runs and the report")
    option.add_set("epochs=2")
    option.add_data_dir()
    option("--weights", metavar="FILE", help="of a pretrained backbone, where the model has one")
    option("--regimes", metavar="NAME,...", help="of the frontier; by default all")
    option("--runs-only", action="store_true", help="neither measure nor report")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    if "frontier" in arguments.names:
        _run_frontier(arguments)
        return
    from lsam_jax.experiments.config import overrides, presets
    from lsam_jax.experiments.report import report
    from lsam_jax.experiments.study import measure, reproduce

    out, data_dir = arguments.out, arguments.data_dir
    settings, recipe = overrides.parse(arguments.settings), presets.preset(arguments.preset)
    study = reproduce.plan(arguments.names, recipe, arguments.scale, arguments.seeds, settings)
    failures = reproduce.reproduce(study, out, data_dir=data_dir, weights=arguments.weights)
    if not arguments.runs_only:
        measure.measure(study, out, data_dir=data_dir)
        print(f"the report is {report(out).html}")
    if failures:
        raise IncompleteError(
            f"{len(failures)} of the runs failed: {', '.join(failures)}; the same command tries "
            "them again"
        )


def _run_frontier(arguments: argparse.Namespace) -> None:
    """The study of `experiments.frontier`, which has presets, scales and seeds of its own."""
    from lsam_jax.experiments.frontier import page, regimes, study

    if len(arguments.names) > 1:
        raise ValueError("frontier is a study of its own; give the tables and figures apart")
    if arguments.settings:
        raise ValueError("--set does not go with frontier, whose settings were fixed in advance")
    directory = Path(arguments.out)
    for regime in regimes.chosen(arguments.regimes):
        study.run(regime, directory, arguments.data_dir)
        if not arguments.runs_only:
            study.measure_once(regime, directory, arguments.data_dir)
    if not arguments.runs_only:
        print(f"the report is {page.write(directory)}")
