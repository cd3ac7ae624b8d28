"""``lsam-jax bench``: four benchmarks of a gradient step."""

import argparse
import importlib
from functools import partial
from typing import Any

from lsam_jax.experiments.cli import options

PACKAGE = "lsam_jax.experiments.bench"


def add(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "bench",
        help="measure the cost of a gradient step relative to SGD: methods, layers, compile time",
        description="Times gradient steps on random images, those that are compared in turn in "
        "one process, so that a busy moment of the machine meets all of them. Beside the measured "
        "cost stand the count of floating-point operations, the cost model of the layer-wise SAM "
        "paper (eq. 8 and 9), compile time and memory.",
    )
    kinds = parser.add_subparsers(title="benchmarks", required=True, metavar="BENCHMARK")
    for add_one in (_methods, _family, _selections, _compile):
        add_one(kinds)


def _methods(kinds: Any) -> None:
    parser = options.add_command(
        kinds,
        "methods",
        partial(run_methods, "table2"),
        "models x methods, as in the paper's Table 2",
        "Every method on every model: SGD, SAM, generalized SAM, LookSAM and layer-wise SAM with "
        "the paper's hyper-parameters, and the paper's numbers beside them; ESAM, SL-SAM, "
        "optax.contrib.sam in opaque mode, and layer-wise SAM as a textbook has it. The weights "
        "stand still and states go on, so methods that perturb now and then, or choose layers, "
        "are measured as they run, on an untrained network. "
        "Models that are not run by default: wrn16_2, wrn28_10, vit_b16 (head alone). "
        "By default about six minutes on two cores, half of them to compile.",
    )
    _add_methods(parser, models="resnet20,resnet8", rounds=12)


def _family(kinds: Any) -> None:
    parser = options.add_command(
        kinds,
        "family",
        partial(run_methods, "family"),
        "every method of the library with its defaults",
        "Every method of the library with its own defaults, one step of each in turn. The weights "
        "stand still and states go on, as in bench methods, so methods that perturb now and then, "
        "or draw what they perturb, are measured as they run, and their mean is what counts. With "
        "the default model about three minutes on two cores, most of them to compile.",
    )
    _add_methods(parser, models="resnet8", rounds=15)


def _selections(kinds: Any) -> None:
    parser = options.add_command(
        kinds,
        "selections",
        run_selections,
        "layer-wise SAM by what is perturbed, beside other implementations",
        "For three sets of perturbed layers that are forced through the optimizer's state, and "
        "for a frozen backbone with a trained head: jax.value_and_grad (SGD), layer-wise SAM, the "
        "static cut without shared prefix, textbook masked layer-wise SAM and optax.contrib.sam "
        "in opaque mode. Also compile time, each the median of three. With the default model "
        "about three minutes on two cores.",
    )
    option = partial(options.add_option, parser)
    option("--model", default="resnet20", metavar="NAME", help="a residual network")
    options.add_size(parser)
    option("--rounds", type=int, default=7, metavar="N", help="interleaved steps for each set")
    option(
        "--gate",
        action=argparse.BooleanOptionalAction,
        help="skip the weight gradients of unselected layers at run time (default: by platform)",
    )
    _add_outputs(parser)


def _compile(kinds: Any) -> None:
    parser = options.add_command(
        kinds,
        "compile",
        run_compile,
        "how long XLA compiles a step of each method",
        "A deep network of small arrays, a kernel and a bias for each layer: processor time to "
        "trace and to compile a step of SGD, of SAM written by hand, and of every method that "
        "computes two full gradients, and others. With the default size about four minutes.",
    )
    option = partial(options.add_option, parser)
    option("--layers", type=int, default=200, metavar="N", help="of the network")
    option("--rounds", type=int, default=3, metavar="N", help="compilations of each step")
    _add_outputs(parser)


def _add_methods(parser: argparse.ArgumentParser, models: str, rounds: int) -> None:
    option = partial(options.add_option, parser)
    option("--models", default=models, metavar="A,B", help="networks, one after the other")
    option("--methods", metavar="A,B", help="some of them, by name (default: all)")
    options.add_size(parser)
    option("--rounds", type=int, default=rounds, metavar="N", help="steps of each method")
    _add_outputs(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    option = partial(options.add_option, parser)
    option("--out", metavar="FILE.json", help="store the numbers and the environment")
    option("--plot", metavar="FILE.png", help="draw them (default: no picture)")


def run_methods(catalog: str, arguments: argparse.Namespace) -> None:
    """Runs ``methods`` and ``family``."""
    methods = importlib.import_module(f"{PACKAGE}.methods")
    settings = methods.Settings(
        batch_size=arguments.batch,
        image_size=arguments.image_size,
        models=tuple(arguments.models.split(",")),
        methods=tuple(arguments.methods.split(",")) if arguments.methods else (),
        catalog=catalog,
        rounds=arguments.rounds,
    )
    _finish(partial(methods.bench, settings), arguments)


def run_selections(arguments: argparse.Namespace) -> None:
    """Runs ``selections``."""
    selections = importlib.import_module(f"{PACKAGE}.selections")
    settings = selections.Settings(
        batch_size=arguments.batch,
        image_size=arguments.image_size,
        model=arguments.model,
        rounds=arguments.rounds,
        gate=arguments.gate,
    )
    _finish(partial(selections.bench, settings), arguments)


def run_compile(arguments: argparse.Namespace) -> None:
    """Runs ``compile``."""
    compile_time = importlib.import_module(f"{PACKAGE}.compile_time")
    settings = compile_time.Settings(layers=arguments.layers, rounds=arguments.rounds)
    _finish(partial(compile_time.bench, settings), arguments)


def _finish(bench: Any, arguments: argparse.Namespace) -> None:
    """Measures, prints, stores and draws."""
    output = importlib.import_module("lsam_jax.experiments.files")
    tables = importlib.import_module(f"{PACKAGE}.tables")
    picture = None if arguments.plot is None else output.writable_file(arguments.plot, "--plot")
    report = bench(arguments.out)
    tables.print_report(report)
    if arguments.out is not None:
        print(f"stored as {arguments.out}")
    if picture is not None:
        importlib.import_module(f"{PACKAGE}.pictures").draw(report, picture)
        print(f"drawn as {arguments.plot}")
