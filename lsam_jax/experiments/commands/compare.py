"""``lsam-jax compare``."""

import argparse
import importlib
from functools import partial
from typing import Any

from lsam_jax.experiments.commands import options


def add(commands: Any) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "compare",
        run,
        "train a small network with SGD, SAM and layer-wise SAM, and print one table",
        "Trains a small residual network on scikit-learn's bundled digits (1797 real images, half "
        "of them held out; nothing is downloaded), or another preset's network, with SGD, SAM and "
        "layer-wise SAM, and prints accuracy, loss, gradient norm, cost of a step relative to SGD "
        "and the share of the network that is perturbed. The defaults are the layer-wise SAM "
        "paper's for CIFAR-10, with k and epochs for a smaller network; nothing is tuned on the "
        "held-out images, and the last epoch counts. Writes the same as compare.json, with "
        "learning_curves.png, gradient_norm.png and perturbations.png. About a minute and a half "
        "on two cores.",
    )
    option = partial(options.add_option, parser)
    option("--preset", default="digits-resnet8", metavar="NAME", help="see lsam-jax list")
    option("--methods", default="sgd,sam,lsam", metavar="A,B", help="what to compare, SGD first")
    option("--epochs", type=int, metavar="N", help="passes, if not the preset's (digits: 20)")
    option("--seeds", type=int, default=3, metavar="N", help="runs of each method: 0 ... N-1")
    options.add_set(parser, "learning_rate=0.05, or for one method lsam.k=4")
    options.add_data_dir(parser)
    option("--out", default="runs/compare", metavar="DIR", help="old results are replaced")
    option("--rounds", type=int, default=100, metavar="N", help="of the cost measurement")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    compare = importlib.import_module("lsam_jax.experiments.compare")
    presets = importlib.import_module("lsam_jax.experiments.presets")
    summary = importlib.import_module("lsam_jax.experiments.summary")
    if arguments.seeds < 1:
        raise ValueError(f"--seeds={arguments.seeds} must be at least 1")
    epochs = [] if arguments.epochs is None else [f"epochs={arguments.epochs}"]
    configs = compare.configurations(
        presets.preset(arguments.preset),
        arguments.methods.split(","),
        [*arguments.settings, *epochs],
    )
    report = compare.compare(
        configs,
        range(arguments.seeds),
        arguments.out,
        rounds=arguments.rounds,
        data_dir=arguments.data_dir,
    )
    summary.print_table(report)
    print(f"compare.json and three pictures are in {arguments.out}")
