"""Measure what a step of some runs costs, relative to the first of them.

Takes up runs of lsam-jax train at their last checkpoints and times real training steps, one of each
in turn, so that a busy moment of the machine meets all of them. The runs themselves stay as they
are.
"""

import argparse
from typing import Any

from lsam_jax.experiments.cli import options


def add(commands: Any) -> None:
    """Adds the command."""
    option = options.add_command(commands, "cost", run, __doc__)
    option("runs", nargs="+", metavar="RUN", help="a directory; SGD's should be first")
    option("--rounds", type=int, default=15, metavar="N", help="steps of each that are timed")
    option.add_data_dir()
    option.add_weights()
    option("--out", metavar="FILE.json", help="store the numbers and the environment")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    from lsam_jax.experiments import tables
    from lsam_jax.experiments.bench.training_steps import costs_of_runs, costs_table

    given = arguments.runs, arguments.rounds, arguments.out
    places = {"data_dir": arguments.data_dir, "weights": arguments.weights}
    tables.show(costs_table(costs_of_runs(*given, **places)))
    if arguments.out is not None:
        print(f"stored as {arguments.out}")
