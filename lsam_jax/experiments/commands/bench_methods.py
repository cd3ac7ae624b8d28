"""``lsam-jax bench-methods``."""

import argparse
import importlib
from functools import partial
from typing import Any

from lsam_jax.experiments.commands import options


def add(commands: Any) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "bench-methods",
        run,
        "measure what a step of every method of the library costs, relative to SGD",
        "Times one gradient step of every method in turn on random images, with the method's own "
        "defaults. States go on from step to step, so methods that perturb now and then, or draw "
        "what they perturb, are measured as they run, and their mean is what counts. With the "
        "default model about ten minutes on two cores, half of them to compile.",
    )
    option = partial(options.add_option, parser)
    options.add_size(parser)
    option("--rounds", type=int, default=15, metavar="N", help="steps of each method")
    option("--methods", metavar="A;B", help="some of them, by name (default: all)")
    option("--out", metavar="FILE.json", help="store the numbers and the environment")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    bench = importlib.import_module("lsam_jax.experiments.method_bench")
    settings = bench.MethodSettings(
        model=arguments.model,
        batch_size=arguments.batch,
        image_size=arguments.image_size,
        rounds=arguments.rounds,
        methods=tuple(arguments.methods.split(";")) if arguments.methods else (),
    )
    report = bench.bench_methods(settings, arguments.out)
    bench.print_methods(report)
    if arguments.out is not None:
        print(f"stored as {arguments.out}")
