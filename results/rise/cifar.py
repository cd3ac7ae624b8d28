"""CIFAR-10 with 40 % noise by the radius that sets itself: does any run end below plain training?

The task, the network and the training are those of the frontier's `cifar-40`; the test images are
seen once. One JSON line a run, made once, on one core:

    python results/rise/cifar.py DATA_DIR     where TFDS has CIFAR-10
"""

import os
import sys
from pathlib import Path

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.frontier import study
from lsam_jax.experiments.frontier.contenders import CONTENDERS, SGD
from lsam_jax.experiments.frontier.regimes import REGIMES

REGIME = REGIMES["cifar-40"]._replace(name="cifar", seeds=(0,))
METHODS = ("sam", "sam-1/8", "layers-4", "layers-4-1/8", "stale")
BY_NAME = {contender.name: contender for contender in CONTENDERS}


def by_rise(name, share):
    of = BY_NAME[name]
    options = {**of.options, "rise_share": share}
    return of._replace(name=f"{name}, share {share}", options=options, radii=())


if __name__ == "__main__":
    swept = [by_rise(name, share) for share in (0.4, 0.1, 0.2, 0.3) for name in METHODS]
    regime = REGIME._replace(contenders=(BY_NAME[SGD], *swept))
    study.run(regime, Path(__file__).parent, datasets.load(regime.config.data, sys.argv[1]))
