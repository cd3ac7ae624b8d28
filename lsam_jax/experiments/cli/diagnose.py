"""Measure how sharp the minima of finished runs are, and how far apart.

Takes finished runs of lsam-jax train and writes sharpness.json into each: the rise of the loss at a
small distance along the gradient, the Hessian's largest eigenvalue and trace, and for each layer
the gradient's norm, eigenvalue and rise; with --landscapes also landscapes.npz, the loss in a plane
through the minimum, inside single layers (steps of -20 ... 19 along two random directions of norm
1) and through all of them (filter-normalised). Of several runs, distances.json has the distances
between their weights. The loss is the training cross-entropy with the run's label smoothing, on the
first training images without augmentation, with batch normalisation's running statistics. What is
there already is not measured again, and a landscape goes on after the last layer that was ready. A
landscape is 1600 evaluations for each layer, and 441 for the whole: ResNet-20 at width 8 and 1024
images take about an hour and a half on one CPU core; --step 4 --images 256 takes two minutes.
"""

import argparse
from typing import Any

from lsam_jax.experiments.cli import options


def add(commands: Any) -> None:
    """Adds the command."""
    option = options.add_command(commands, "diagnose", run, __doc__)
    option("runs", nargs="+", metavar="RUN", help="the --out of lsam-jax train")
    option("--images", type=int, default=1024, metavar="N", help="training images, the first; "
           "a few less if they do not make batches of one size")  # fmt: skip
    option("--rho", type=float, default=0.05, metavar="X", help="distance along the gradient")
    option("--probes", type=int, default=16, metavar="N", help="random vectors for the trace")
    option("--landscapes", action="store_true", help="write landscapes.npz too")
    option("--layers", default=(), help="whose landscapes (default: six, evenly from input to "
           "output)", **options.NAMES)  # fmt: skip
    option("--step", type=int, default=1, metavar="N", help="distance of the points of a layer's "
           "landscape; the whole network's is as much coarser; 1, 2, 4, 5, 10 or 20")  # fmt: skip
    option("--seed", type=int, default=0, metavar="N", help="of directions and probes")
    option("--again", action="store_true", help="replace what is there")
    option.add_data_dir()
    option("--out", metavar="DIR", help="for distances.json (default: the directory that has all "
           "runs)")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    from lsam_jax.experiments import tables
    from lsam_jax.experiments.study.diagnose import diagnose, sharpness_table
    from lsam_jax.experiments.study.evaluation_loss import Settings

    given = ("images", "seed", "rho", "probes", "step", "layers")
    settings = Settings(**{name: getattr(arguments, name) for name in given})
    found = diagnose(
        arguments.runs,
        settings,
        with_landscapes=arguments.landscapes,
        again=arguments.again,
        out=arguments.out,
        data_dir=arguments.data_dir,
    )
    tables.show(sharpness_table(found))
