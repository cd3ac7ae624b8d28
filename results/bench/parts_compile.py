"""How long XLA compiles a step on a part of the batch, or by the rise, against the textbook mask's.

`python results/bench/parts_compile.py [ROUNDS]`: ResNet-20, batch 128, processor time of XLA's
compilation, the steps in turn; medians of the ratios.
"""

import functools
import sys
import time

import jax
import numpy as np

from lsam_jax.experiments import environment
from lsam_jax.experiments.bench import catalog, workload

NAMES = ("textbook", "sam", "sam-rise", "sam-1/8", "sam-1/4", "layerwise_sam-1/8", "stale")


def seconds(method, work):
    timed = method.timed(work)
    jax.clear_caches()
    step = jax.jit(functools.partial(timed.step))
    lowered = step.lower(work.params, *timed.own, *work.args)
    start = time.process_time()
    lowered.compile()
    return time.process_time() - start


def main(rounds):
    work = workload.whole_network("resnet20", workload.Size(128, 32))
    methods = catalog.table2("resnet20")
    found = np.array([[seconds(methods[n], work) for n in NAMES] for _ in range(rounds)])
    ratios = found / found[:, :1]
    for n, name in enumerate(NAMES):
        low, middle, high = np.quantile(ratios[:, n], [0.25, 0.5, 0.75])
        print(f"{name:18} {np.median(found[:, n]):5.1f} s  {middle:.2f} ({low:.2f}-{high:.2f})")
    sam, by_rise = (found[:, NAMES.index(name)] for name in ("sam", "sam-rise"))
    print(f"the radius by the rise, against a fixed one: {np.median(by_rise / sam):.3f}")
    print(environment.describe())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
