"""What a training step of each contender costs, measured in the middle of a run."""

import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lsam_jax.experiments import environment
from lsam_jax.experiments.bench.training_steps import Snapshots, time_steps
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.errors import Stopped
from lsam_jax.experiments.frontier.contenders import SAM, SGD, Contender
from lsam_jax.experiments.frontier.ledger import Ledger
from lsam_jax.experiments.frontier.regimes import Regime
from lsam_jax.experiments.training import loop, step

BLOCK = 30
"""Steps whose mean is one measurement: a multiple of all the periods among the contenders."""


class _Middle(Snapshots):
    """Ends a run once its state is there."""

    def stop(self) -> signal.Signals | None:
        return signal.SIGTERM if self.states else None


def to_time(regime: Regime, ledger: Ledger) -> list[Contender]:
    """The contenders whose steps are measured.

    Those that perturb in a window alone cost what SGD and SAM do outside and inside of it; those
    without final runs, whose radius is not known, are left out.
    """
    return [
        one
        for one in regime.contenders
        if ledger.finals(one.name) and "perturb_from" not in one.options and one.length == 1
    ]


def measure(
    regime: Regime, ledger: Ledger, data: datasets.Dataset, blocks: int = 4
) -> dict[str, Any]:
    """Takes up a run of each contender in its middle, and times steps of all in turn.

    Returns:
        For ``costs``, by contender, the median over the blocks of the cost of a step relative to
        SGD's, with the least and the largest; ``left_out``, those whose loss was not finite before
        the middle; and the environment.

    Raises:
        NonFiniteLossError: When SGD's was not.
    """
    timed: list[Contender] = []
    left_out: list[str] = []
    programs, states = [], []
    for one in to_time(regime, ledger):
        rho = next(iter(ledger.finals(one.name, "rho").values()))
        config = regime.configure(one, rho, seed=0)
        middle = _Middle([max(1, config.epochs // 2)])
        program = step.build(config, data)
        try:
            loop.fit(config, program=program, watcher=middle)
        except Stopped:
            pass
        except loop.NonFiniteLossError as error:
            if one.name == SGD:
                raise
            print(f"{regime.name} {one.name} is not timed: {error}", file=sys.stderr, flush=True)
            left_out.append(one.name)
            continue
        timed.append(one)
        programs.append(program)
        states += middle.states
    seconds = time_steps(programs, states, BLOCK * blocks).seconds
    means = seconds.reshape(blocks, BLOCK, len(timed)).mean(axis=1)
    relative = means / means[:, [[one.name for one in timed].index(SGD)]]
    least, median, most = np.quantile(relative, [0, 0.5, 1], axis=0).round(3).tolist()
    costs = {
        one.name: {"median": median[n], "least": least[n], "most": most[n]}
        for n, one in enumerate(timed)
    }
    of = {"steps": BLOCK * blocks, "environment": environment.describe()}
    return {"costs": costs, "left_out": left_out, **of}


def of_steps(measured: Mapping[str, Any], contenders: Sequence[Contender]) -> dict[str, float]:
    """Mean cost of a step over a run, by contender."""
    costs = {name: numbers["median"] for name, numbers in measured["costs"].items()}
    for one in contenders:
        start = one.options.get("perturb_from")
        if start is not None and SAM in costs:
            costs[one.name] = start + (1 - start) * costs[SAM]
        if one.length > 1:
            costs[one.name] = 1.0
    return costs
