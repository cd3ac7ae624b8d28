"""The command line: arguments to calls, errors to one line."""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

EXTRAS = (
    "PIL",
    "array_record",
    "flax",
    "importlib_resources",
    "matplotlib",
    "numpy",
    "rich",
    "sklearn",
    "tensorflow_datasets",
    "tqdm",
)

USER_ERROR = 2
FAILED = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``lsam-jax``.

    Args:
        argv: Arguments; None for those of the process.

    Returns:
        0; 1 when a run went wrong, 2 for what the user can put right, 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("lsam-jax: interrupted; results of this run were not written", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        return _fail(arguments, f'{missing} is missing: pip install "lsam-jax[train]"', USER_ERROR)
    except FloatingPointError as error:
        return _fail(arguments, str(error), FAILED)
    except (ValueError, TypeError, OSError) as error:
        return _fail(arguments, str(error), USER_ERROR)
    return 0


def _fail(arguments: argparse.Namespace, message: str, status: int) -> int:
    if arguments.debug:
        traceback.print_exc()
    print(f"lsam-jax: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _compare(arguments: argparse.Namespace) -> None:
    compare = importlib.import_module("lsam_jax.experiments.compare")
    config = importlib.import_module("lsam_jax.experiments.config")
    summary = importlib.import_module("lsam_jax.experiments.summary")
    if arguments.seeds < 1:
        raise ValueError(f"--seeds={arguments.seeds} must be at least 1")
    base = config.Config(
        model=arguments.model,
        width=arguments.width,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        k=arguments.k,
        rho=arguments.rho,
        alpha=arguments.alpha,
        normalize=arguments.normalize,
    )
    report = compare.compare(
        compare.default_configs(base, arguments.sam_rho),
        range(arguments.seeds),
        arguments.out,
        rounds=arguments.rounds,
    )
    summary.print_table(report)
    print(f"compare.json and three pictures are in {arguments.out}")


def _bench(arguments: argparse.Namespace) -> None:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lsam-jax",
        description="Layer-wise sharpness-aware minimization: experiments.",
        epilog='Needs the extra "train": pip install "lsam-jax[train]".',
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_bench(commands)
    return parser


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "compare",
        "train a small network with SGD, SAM and layer-wise SAM, and print one table",
        "Trains a small residual network on scikit-learn's bundled digits (1797 real images, half "
        "of them held out; nothing is downloaded) with SGD, SAM and layer-wise SAM, and prints "
        "accuracy, loss, gradient norm, cost of a step relative to SGD and the share of the "
        "network that is perturbed. The defaults are the layer-wise SAM paper's for CIFAR-10, with "
        "k and epochs for a smaller network; nothing is tuned on the held-out images, and the "
        "last epoch counts. Writes the same as compare.json, with learning_curves.png, "
        "gradient_norm.png and perturbations.png. About a minute and a half on two cores.",
    )
    add = partial(_add_option, parser)
    add("--out", default="runs/compare", metavar="DIR", help="directory; old results are replaced")
    add("--epochs", type=int, default=20, metavar="N", help="passes over the training images")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each method: seeds 0 ... N-1")
    add("--k", type=int, default=2, metavar="N", help="layers that layer-wise SAM perturbs")
    add("--rho", type=float, default=0.1, metavar="R", help="layer-wise SAM's radius")
    add("--alpha", type=float, default=0.8, metavar="A", help="its share of perturbed gradient")
    add("--normalize", action="store_true", help="divide its ascent gradient by its norm")
    add("--sam-rho", type=float, default=0.05, metavar="R", help="SAM's radius")
    add("--learning-rate", type=float, default=0.1, metavar="R", help="of all methods")
    add("--batch-size", type=int, default=64, metavar="N", help="images in a batch")
    add("--model", default="resnet8", metavar="NAME", help="resnet8, resnet20 or wrn28_10")
    add("--width", type=int, metavar="N", help="channels of the first stage, if not the model's")
    add("--rounds", type=int, default=100, metavar="N", help="of the cost measurement")
    parser.set_defaults(run=_compare)


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "bench",
        "measure the cost of a gradient step relative to SGD, beside other implementations",
        "Times one gradient step on random images, for three sets of perturbed layers that are "
        "forced through the optimizer's state and for a frozen backbone with a trained head: "
        "jax.value_and_grad (SGD), layer-wise SAM, the static cut without shared prefix, "
        "textbook masked layer-wise SAM and optax.contrib.sam in opaque mode, interleaved in "
        "one run. Also compile time, temporary memory and counted FLOPs. With the default model "
        "about five minutes on two cores.",
    )
    add = partial(_add_option, parser)
    add("--model", default="resnet20", metavar="NAME", help="resnet8, resnet20 or wrn28_10")
    add("--batch", type=int, default=128, metavar="N", help="images in a batch")
    add("--image-size", type=int, default=32, metavar="N", help="height and width, three channels")
    add("--repeats", type=int, default=7, metavar="N", help="interleaved rounds for each set")
    add(
        "--gate",
        action=argparse.BooleanOptionalAction,
        help="skip the weight gradients of unselected layers at run time (default: by platform)",
    )
    add("--out", metavar="FILE.json", help="store the numbers and the environment")
    parser.set_defaults(run=_bench)


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=description)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_option(parser: argparse.ArgumentParser, name: str, *, help: str, **options: Any) -> None:
    """Adds an argument whose help names its default, where there is one."""
    default = options.get("default")
    text = help if default is None else f"{help} (default: {default})"
    parser.add_argument(name, help=text, **options)


if __name__ == "__main__":
    sys.exit(main())
