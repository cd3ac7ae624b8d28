"""What a ledger says of each contender."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsam_jax.experiments.frontier.contenders import CONTENDERS, SAM, SGD, Contender
from lsam_jax.experiments.frontier.ledger import Ledger
from lsam_jax.experiments.statistics import Difference, Kept, Spread, adjusted, kept, paired, spread


class Result(NamedTuple):
    """A contender's final runs.

    Attributes:
        contender: Whose.
        rho: The radius; None where there was none to choose.
        last: Accuracy after the last pass.
        best: Of the best evaluation, chosen by the test images.
        fitted: Share of the noisy training labels.
        kept: Of SAM's gain.
        difference: Of the last accuracies from SGD's, paired.
        counted: Cost of the run in plain gradients, of runs of usual length.
        measured: Cost of a step; None where it was not measured.
        p: Of the difference, adjusted by Holm's rule for all contenders of the regime.
    """

    contender: Contender
    rho: float | None
    last: Spread
    best: Spread
    fitted: Spread
    kept: Kept
    difference: Difference
    counted: float
    measured: float | None
    p: float | None = None

    @property
    def cost(self) -> float:
        """Measured, where it is, else counted; of the whole run."""
        return self.counted if self.measured is None else self.measured * self.contender.length

    @property
    def kind(self) -> str:
        """How `cost` is told, in a word."""
        return "counted" if self.measured is None else "measured"


def kinds(rows: Iterable[Result]) -> str:
    """How the costs of several are told, in words."""
    found = {row.kind for row in rows}
    return "measured or, where they are not, counted" if len(found) > 1 else found.pop()


def results(
    ledger: Ledger, costs: Mapping[str, float], contenders: Sequence[Contender] = CONTENDERS
) -> list[Result]:
    """Of the contenders that have final runs; none without SGD's and SAM's."""
    last = {one.name: _last(ledger, one.name) for one in contenders}
    if not (last.get(SGD) and last.get(SAM)):
        return []
    there = [one for one in contenders if last[one.name]]
    return adjusted(
        Result(
            contender=one,
            rho=next(iter(ledger.finals(one.name, "rho").values())),
            last=spread(list(last[one.name].values())),
            best=spread([max(x) for x in ledger.finals(one.name).values()]),
            fitted=spread(list(ledger.finals(one.name, "fitted").values())),
            kept=kept(last[one.name], last[SGD], last[SAM]),
            difference=paired(last[one.name], last[SGD]),
            counted=one.length * _mean(ledger.finals(one.name, "cost").values()),
            measured=costs.get(one.name),
        )
        for one in there
    )


def _mean(values: Iterable[float | None]) -> float:
    """Of the runs that came to their end."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _last(ledger: Ledger, name: str) -> dict[int, float]:
    return {seed: accuracies[-1] for seed, accuracies in ledger.finals(name).items()}
