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

USUAL: dict[str, Any] = {"scale": "cpu", "preset": "cifar10-resnet20", "seeds": 3}
"""What tables and figures take where nothing is said."""


def add(commands: Any) -> None:
    """Adds the command."""
    option = options.add_command(
        commands, "reproduce", run, __doc__, go_on="; the same command goes on from there"
    )
    names = "table1 (methods), table2 (costs), table3 (which layers), table4 (how many layers), "
    names += "figure1 ... figure6, grid (rho, alpha and normalisation); or, alone, frontier: what "
    names += "share of SAM's gain each cheaper method keeps, at which price"
    option("names", nargs="+", metavar="NAME", help=names)
    of_tables = {
        "scale": "paper or cpu",
        "preset": "see lsam-jax list",
        "seeds": "runs of each: 0 ... N-1; random layers and masks are drawn alike in all",
    }
    for name, text in of_tables.items():  # no defaults here, as frontier takes none of them
        metavar, usual = "N" if name == "seeds" else "NAME", USUAL[name]
        option(f"--{name}", type=type(usual), metavar=metavar, help=f"{text} (default: {usual})")
    option("--out", default="runs/reproduce", metavar="DIR", help="of all runs and the report")
    option.add_set("epochs=2")
    option.add_data_dir()
    option.add_weights()
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

    if arguments.regimes is not None:
        raise ValueError(f"--regimes={arguments.regimes} is for frontier alone; leave it out")
    given = {name: getattr(arguments, name) for name in USUAL}
    given = USUAL | {name: x for name, x in given.items() if x is not None}
    settings, recipe = overrides.parse(arguments.settings), presets.preset(given["preset"])
    study = reproduce.plan(arguments.names, recipe, given["scale"], given["seeds"], settings)
    places = {"data_dir": arguments.data_dir, "weights": arguments.weights}
    failures = reproduce.reproduce(study, arguments.out, **places)
    unmeasured: dict[str, str] = {}
    if not arguments.runs_only:
        unmeasured = measure.measure(study, arguments.out, **places)
        print(f"the report is {report(arguments.out).html}")
    problems = [f"{what} not measured: {why}" for what, why in unmeasured.items()]
    if failures:
        problems.insert(0, f"{len(failures)} of the runs failed: {', '.join(failures)}")
    if problems:
        raise IncompleteError(f"{'; '.join(problems)}; the same command tries again")


def _run_frontier(arguments: argparse.Namespace) -> None:
    """The study of `experiments.frontier`, which has presets, scales and seeds of its own."""
    from lsam_jax.experiments.data import datasets
    from lsam_jax.experiments.frontier import page, regimes, study

    if len(arguments.names) > 1:
        raise ValueError("frontier is a study of its own; give the tables and figures apart")
    for name, value in (
        *(("set", " ".join(arguments.settings) or None), ("weights", arguments.weights)),
        *((name, getattr(arguments, name)) for name in USUAL),
    ):
        if value is not None:
            raise ValueError(
                f"--{name}={value} does not go with frontier, whose settings were fixed in "
                "advance; leave it out"
            )
    directory, chosen = Path(arguments.out), regimes.chosen(arguments.regimes)
    # All of it, before the first of many hours.
    names = dict.fromkeys(regime.config.data for regime in chosen)
    data = {name: datasets.load(name, arguments.data_dir) for name in names}
    for regime in chosen:
        study.run(regime, directory, data[regime.config.data])
        if not arguments.runs_only:
            study.measure_once(regime, directory, data[regime.config.data])
    if not arguments.runs_only:
        print(f"the report is {page.write(directory)}")
