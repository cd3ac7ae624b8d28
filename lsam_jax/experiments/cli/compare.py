"""Train a small network on noisy labels with SGD, SAM and cheaper SAM, and print one table.

Trains a small residual network on scikit-learn's bundled digits (1,200 real images to train on, 597
held out; nothing is downloaded), or another preset's network, with each method. 40 % of the
training labels are drawn anew, once for each seed; the held-out labels are clean. Prints accuracy
on the held-out images, how many of the training labels the network has learnt, the cost of a step
relative to SGD and the time of a run. The radii were chosen on part of the training images with
other seeds, nothing is tuned on the held-out images, and the last epoch counts. Writes the same as
compare.json, with accuracy_cost.png, learning_curves.png, gradient_norm.png, radius.png and
perturbations.png. About two minutes on two cores.
"""

import argparse
from pathlib import Path
from typing import Any

from lsam_jax.experiments.cli import options
from lsam_jax.experiments.errors import IncompleteError


def add(commands: Any) -> None:
    """Adds the command."""
    option = options.add_command(commands, "compare", run, __doc__)
    option("--preset", default="noisy-digits-resnet8", metavar="NAME", help="see lsam-jax list")
    option(
        "--methods",
        default="sgd,sam,layerwise_sam,stale",
        help="what to compare, SGD first",
        **options.NAMES,
    )
    option("--epochs", type=int, metavar="N", help="passes, if not the preset's (digits: 30)")
    option("--noise", type=float, metavar="SHARE", help="of the training labels that is drawn "
           "anew, if not the preset's (digits: 0.4); 0 for clean labels")  # fmt: skip
    option("--seeds", type=int, default=3, metavar="N", help="runs of each method: 0 ... "
           "N-1; a method's own draws (layers, masks, probes) are alike in all")  # fmt: skip
    option.add_set("learning_rate=0.05, or for one method layerwise_sam.k=4")
    option.add_data_dir()
    option.add_weights()
    option("--out", default="runs/compare", metavar="DIR", help="old results are replaced")
    option("--rounds", type=int, default=100, metavar="N", help="of the cost measurement")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    from lsam_jax.experiments import tables
    from lsam_jax.experiments.config.presets import preset
    from lsam_jax.experiments.report import compared
    from lsam_jax.experiments.study import compare, summary

    if arguments.seeds < 1:
        raise ValueError(f"--seeds={arguments.seeds} must be at least 1")
    if arguments.noise is not None and not 0 <= arguments.noise <= 1:
        raise ValueError(f"--noise={arguments.noise} must be a share of the labels, in [0, 1]")
    changed = {"epochs": arguments.epochs, "label_noise": arguments.noise}
    configs = compare.configurations(
        preset(arguments.preset),
        arguments.methods,
        [*arguments.settings, *(f"{k}={x}" for k, x in changed.items() if x is not None)],
    )
    report = compare.compare(
        configs,
        range(arguments.seeds),
        arguments.out,
        rounds=arguments.rounds,
        data_dir=arguments.data_dir,
        weights=arguments.weights,
    )
    tables.show(summary.table(report))
    drawn = compared.draw(report, Path(arguments.out))
    print(f"compare.json and {drawn} pictures are in {arguments.out}")
    if report["failures"]:
        raise IncompleteError(f"these runs failed: {'; '.join(report['failures'])}")
