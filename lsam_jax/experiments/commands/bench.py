"""``lsam-jax bench``."""

import argparse
import importlib
from functools import partial
from typing import Any

from lsam_jax.experiments.commands import options


def add(commands: Any) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "bench",
        run,
        "measure the cost of a gradient step relative to SGD, beside other implementations",
        "Times one gradient step on random images, for three sets of perturbed layers that are "
        "forced through the optimizer's state and for a frozen backbone with a trained head: "
        "jax.value_and_grad (SGD), layer-wise SAM, the static cut without shared prefix, "
        "textbook masked layer-wise SAM and optax.contrib.sam in opaque mode, interleaved in "
        "one run. Also compile time, temporary memory and counted FLOPs. With the default model "
        "about five minutes on two cores.",
    )
    option = partial(options.add_option, parser)
    options.add_size(parser)
    option("--repeats", type=int, default=7, metavar="N", help="interleaved rounds for each set")
    option(
        "--gate",
        action=argparse.BooleanOptionalAction,
        help="skip the weight gradients of unselected layers at run time (default: by platform)",
    )
    option("--out", metavar="FILE.json", help="store the numbers and the environment")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    bench = importlib.import_module("lsam_jax.experiments.bench")
    tables = importlib.import_module("lsam_jax.experiments.bench_tables")
    settings = bench.Settings(
        model=arguments.model,
        batch_size=arguments.batch,
        image_size=arguments.image_size,
        repeats=arguments.repeats,
        gate=arguments.gate,
    )
    report = bench.bench(settings, arguments.out)
    tables.print_tables(report)
    if arguments.out is not None:
        print(f"stored as {arguments.out}")
