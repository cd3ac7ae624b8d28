"""Measure the cost of a gradient step relative to SGD: methods, layers.

Times gradient steps on random images, those that are compared in turn in one process, so that a
busy moment of the machine meets all of them. Beside the measured cost stand the count of
floating-point operations, the cost model of the layer-wise SAM paper (eq. 8 and 9), compile time
and memory.
"""

import argparse
import dataclasses
import importlib
from functools import partial
from typing import Any

from lsam_jax.experiments.cli import options
from lsam_jax.experiments.errors import IncompleteError

PACKAGE = "lsam_jax.experiments.bench"


def add(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("bench", **options.described(__doc__))
    kinds = parser.add_subparsers(title="benchmarks", required=True, metavar="BENCHMARK")
    for add_one in (_methods, _family, _selections, _compiled):
        add_one(kinds)


def _methods(kinds: Any) -> None:
    """Models x methods, as in the paper's Table 2.

    Every method on every model: SGD, SAM, generalized SAM, LookSAM and layer-wise SAM with the
    paper's hyper-parameters, and the paper's numbers beside them; ESAM, SL-SAM, optax.contrib.sam
    in opaque mode, and layer-wise SAM as a textbook has it. The weights stand still and states go
    on, so methods that perturb now and then, or choose layers, are measured as they run, on an
    untrained network. Models that are not run by default: wrn16_2, wrn28_10, vit_b16 (head alone).
    By default about six minutes on two cores, half of them to compile.
    """
    option = options.add_command(
        kinds, "methods", partial(run, "methods"), _methods.__doc__, catalog="table2"
    )
    _add_methods(option, models="resnet20,resnet8", rounds=12)


def _family(kinds: Any) -> None:
    """Every method of the library with its defaults.

    Every method of the library with its own defaults, one step of each in turn. The weights stand
    still and states go on, as in bench methods, so methods that perturb now and then, or draw what
    they perturb, are measured as they run, and their mean is what counts. With the default model
    about three minutes on two cores, most of them to compile.
    """
    option = options.add_command(
        kinds, "family", partial(run, "methods"), _family.__doc__, catalog="family"
    )
    _add_methods(option, models="resnet8", rounds=15)


def _selections(kinds: Any) -> None:
    """Layer-wise SAM by what is perturbed, beside other implementations.

    For three sets of perturbed layers that are forced through the optimizer's state, and for a
    frozen backbone with a trained head: jax.value_and_grad (SGD), layer-wise SAM, the static cut
    without shared prefix, textbook masked layer-wise SAM and optax.contrib.sam in opaque mode. Also
    compile time, each the median of three. With the default model about three minutes on two cores.
    """
    option = options.add_command(
        kinds, "selections", partial(run, "selections"), _selections.__doc__
    )
    option("--model", default="resnet20", metavar="NAME", help="a residual network")
    option.add_size()
    option("--rounds", type=int, default=7, metavar="N", help="interleaved steps for each set")
    option(
        "--gate",
        action=argparse.BooleanOptionalAction,
        help="skip the weight gradients of unselected layers at run time (default: by platform)",
    )
    _add_outputs(option)


def _compiled(kinds: Any) -> None:
    """What compilers for TPU, GPU and CPU make of a step; needs no device.

    Compiles steps for a device that need not be there, and runs none: processor time, the device's
    memory, conditionals with what they hand on, collectives inside them, cycles that a TPU's
    compiler estimates. With the default networks about a minute for a CPU or an H100; half of that
    for a TPU, where --whole takes an hour.
    """
    option = options.add_command(kinds, "compiled", _run_compiled, _compiled.__doc__, plot=None)
    option("--target", default="cpu", metavar="NAME", help="cpu, tpu-v5e or h100 (default: cpu)")
    option(
        "--networks",
        default="resnet20,gpt-scanned",
        help="of images, or gpt-scanned",
        **options.NAMES,
    )
    option("--methods", default=(), help="some of them, by name (default: all)", **options.NAMES)
    option("--devices", type=int, default=1, metavar="N", help="that share a batch")
    option.add_size()
    option("--whole", action="store_true", help="wait for a TPU's compiler to end: cycles")
    _add_outputs(option, plot=False)


def _add_methods(option: options.Options, models: str, rounds: int) -> None:
    option("--models", default=models, help="networks, one after the other", **options.NAMES)
    option("--methods", default=(), help="some of them, by name (default: all)", **options.NAMES)
    option.add_size()
    option("--rounds", type=int, default=rounds, metavar="N", help="steps of each method")
    _add_outputs(option)


def _add_outputs(option: options.Options, plot: bool = True) -> None:
    option("--out", metavar="FILE.json", help="store the numbers and the environment")
    if plot:
        option("--plot", metavar="FILE.png", help="draw them (default: no picture)")


def _run_compiled(arguments: argparse.Namespace) -> None:
    rows = run("compiled", arguments)["rows"]
    failed = [f"{of}: {name}" for of, row in rows.items() for name in row if "error" in row[name]]
    if failed:
        raise IncompleteError(f"{len(failed)} of the programs failed: {', '.join(failed)}")


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints, stores and draws.

    Args:
        name: Of a module with `Settings`, whose fields the arguments have, and `bench`, from those
            to the rows of a report.
        arguments: As they were parsed.

    Returns:
        The report.
    """
    from lsam_jax.experiments import environment, files, tables
    from lsam_jax.experiments.bench import pictures
    from lsam_jax.experiments.bench import tables as bench_tables

    module = importlib.import_module(f"{PACKAGE}.{name}")
    fields = {field.name for field in dataclasses.fields(module.Settings)}
    settings = module.Settings(**{k: x for k, x in vars(arguments).items() if k in fields})
    file, picture = (
        None if path is None else files.writable_file(path, option)
        for path, option in ((arguments.out, "--out"), (arguments.plot, "--plot"))
    )
    report = {
        "bench": name,
        "settings": dataclasses.asdict(settings),
        **module.bench(settings),
        "environment": environment.describe(),
    }
    if file is not None:
        files.write_json(file, report)
    for table in bench_tables.of(report):
        tables.show(table, "")
    if file is not None:
        print(f"stored as {arguments.out}")
    if picture is not None:
        pictures.draw(report, picture)
        print(f"drawn as {arguments.plot}")
    return report
