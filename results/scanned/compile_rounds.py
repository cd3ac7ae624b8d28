"""How long XLA compiles a step by norm, against the textbook mask's.

`python results/scanned/compile_rounds.py [ROUNDS]`: the networks of measure.py, ResNet-20 with
batch 128; processor time of XLA's compilation, the steps in turn; medians of the ratios, quartiles.
Beside them how many kernels it compiles, on which another program on the machine has no influence.
"""

import functools
import re
import sys
import time

import jax
import measure
import numpy as np

from lsam_jax.experiments import environment
from lsam_jax.experiments.bench import catalog, workload

BOOK, BY_NORM = "textbook mask", "last two blocks, by norm"


def resnet():
    """The same two of ResNet-20, one layer an array."""
    work = workload.whole_network("resnet20", workload.Size(128, 32))
    known = catalog.table2("resnet20")
    timed = {
        name: known[key].timed(work)
        for name, key in ((BOOK, "textbook"), (BY_NORM, "layerwise_sam"))
    }
    return {name: (one.step, (work.params, *one.own, *work.args)) for name, one in timed.items()}


def compiled(step, args):
    """Seconds of the processor, and kernels; XLA compiles those that are alike once."""
    jax.clear_caches()
    lowered = jax.jit(functools.partial(step)).lower(*args)
    start = time.process_time()
    program = lowered.compile()
    return time.process_time() - start, len(kernels(program.as_text()))


def kernels(program):
    """What XLA compiles itself, not in its libraries; alike whatever the variables are called."""
    parts = re.split(r"\n(?=\S)", re.sub(r", metadata={[^}]*}", "", program))
    bodies = {name.lstrip("%"): body for name, _, body in (part.partition(" ") for part in parts)}
    called = re.findall(r"kind=kLoop, calls=%?([\w.-]+)", program)
    return {numbered(bodies[name]) for name in called}


def numbered(body):
    """A text with its names in order of use."""
    names = {}
    name = lambda found: names.setdefault(found[0].lstrip("%"), str(len(names)))  # noqa: E731
    return re.sub(r"%[\w.-]+|\bparam_[\d.]+", name, body)


def main(rounds):
    steps = {"ResNet-20": resnet()}
    for name in ("list", "scan"):
        steps[name] = measure.steps_of(*measure.networks()[name])
    for name, of in steps.items():
        found = np.array([[compiled(*of[x]) for x in (BOOK, BY_NORM)] for _ in range(rounds)])
        low, middle, high = np.quantile(found[:, 1, 0] / found[:, 0, 0], [0.25, 0.5, 0.75])
        (book, book_kernels), (by_norm, kernels_by_norm) = np.median(found, axis=0)
        print(
            f"{name:10} {book:5.1f} s  {by_norm:5.1f} s  {middle:.2f} ({low:.2f}-{high:.2f})  "
            f"kernels {book_kernels:.0f}, {kernels_by_norm:.0f}",
            flush=True,
        )
    print(environment.describe())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
