"""``lsam-jax reproduce``."""

import argparse
import importlib
from functools import partial
from pathlib import Path
from typing import Any

from lsam_jax.experiments.cli import options
from lsam_jax.experiments.errors import IncompleteError


def add(commands: Any) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "reproduce",
        run,
        "run what a table or figure of the layer-wise SAM paper needs, and report it",
        "Runs what is missing in --out for the tables and figures named, resumes what was "
        "stopped, and writes a report. A run that several of them need is made once. At --scale "
        "paper the preset is that of the paper; --scale cpu takes fewer images, epochs and "
        "channels, and says so wherever it shows a number.",
    )
    option = partial(options.add_option, parser)
    names = "table1 (methods), table2 (costs), table3 (which layers), table4 (how many layers), "
    names += "figure1 ... figure6, grid (rho, alpha and normalisation); or, alone, frontier: what "
    names += "share of SAM's gain each cheaper method keeps, at which price"
    option("names", nargs="+", metavar="NAME", help=names)
    option("--scale", default="cpu", metavar="NAME", help="paper or cpu")
    option("--preset", default="cifar10-resnet20", metavar="NAME", help="see lsam-jax list")
    option("--seeds", type=int, default=3, metavar="N", help="runs of each: 0 ... N-1")
    option("--out", default="runs/reproduce", metavar="DIR", help="of all runs and the report")
    options.add_set(parser, "epochs=2")
    options.add_data_dir(parser)
    option("--weights", metavar="FILE", help="of a pretrained backbone, where the model has one")
    option("--regimes", metavar="NAME,...", help="of the frontier; by default all")
    option("--runs-only", action="store_true", help="neither measure nor report")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    if "frontier" in arguments.names:
        _run_frontier(arguments)
        return
    presets = importlib.import_module("lsam_jax.experiments.presets")
    reproduce = importlib.import_module("lsam_jax.experiments.study.reproduce")
    settings = importlib.import_module("lsam_jax.experiments.config.overrides")
    study = reproduce.plan(
        arguments.names,
        presets.preset(arguments.preset),
        arguments.scale,
        arguments.seeds,
        settings.parse(arguments.settings),
    )
    failures = reproduce.reproduce(
        study, arguments.out, data_dir=arguments.data_dir, weights=arguments.weights
    )
    if not arguments.runs_only:
        measures = importlib.import_module("lsam_jax.experiments.study.measure")
        report = importlib.import_module("lsam_jax.experiments.report")
        measures.measure(study, arguments.out, data_dir=arguments.data_dir)
        print(f"the report is {report.report(arguments.out).html}")
    if failures:
        raise IncompleteError(
            f"{len(failures)} of the runs failed: {', '.join(failures)}; the same command tries "
            "them again"
        )


def _run_frontier(arguments: argparse.Namespace) -> None:
    """The study of `experiments.frontier`, which has presets, scales and seeds of its own."""
    if len(arguments.names) > 1:
        raise ValueError("frontier is a study of its own; give the tables and figures apart")
    if arguments.settings:
        raise ValueError("--set does not go with frontier, whose settings were fixed in advance")
    frontier = importlib.import_module("lsam_jax.experiments.frontier.study")
    regimes = importlib.import_module("lsam_jax.experiments.frontier.regimes").chosen(
        arguments.regimes
    )
    directory = Path(arguments.out)
    for regime in regimes:
        frontier.run(regime, directory, arguments.data_dir)
        if not arguments.runs_only:
            frontier.measure_once(regime, directory, arguments.data_dir)
    if not arguments.runs_only:
        page = importlib.import_module("lsam_jax.experiments.frontier.page")
        print(f"the report is {page.write(directory)}")
