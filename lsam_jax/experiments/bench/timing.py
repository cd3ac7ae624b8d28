"""Wall-clock comparison of compiled functions on a machine that does other things too.

The functions run in turn, A B C A B C ..., so a slow moment meets all of them, and costs are
compared within a round. Some methods do not cost the same in every step: LookSAM perturbs now and
then, layer-wise SAM chooses. Steps that did the same are one kind; a mean is that over the kinds of
the median of each, weighted by how many steps were of that kind, so that one disturbed step does
not move it.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Cost(NamedTuple):
    """Cost of one function relative to the first of its comparison.

    Attributes:
        seconds: Mean over the kinds of step of its own times.
        ratio: Median over the rounds of its time by the first function's.
        low: Lower quartile of those ratios.
        high: Upper quartile.
        mean: Of those ratios, over the kinds of step.
        kinds: How many there were.
    """

    seconds: float
    ratio: float
    low: float
    high: float
    mean: float
    kinds: int


def interleaved(
    functions: Collection[Callable[[], Any]],
    rounds: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Times the functions in turn, each until its result is ready.

    Args:
        functions: Without arguments, each returning the arrays to wait for.
        rounds: How often each is timed.
        warmup: Rounds before those that are not timed: compilation, caches.
        clock: Seconds; replaced in tests.

    Returns:
        Seconds, f64[rounds, functions].
    """
    seconds = np.zeros((rounds, len(functions)))
    for turn in range(-warmup, rounds):
        for column, function in enumerate(functions):
            start = clock()
            jax.block_until_ready(function())
            if turn >= 0:
                seconds[turn, column] = clock() - start
    return seconds


def costs(
    names: Sequence[str], seconds: np.ndarray, kinds: Sequence[np.ndarray] | None = None
) -> dict[str, Cost]:
    """Costs relative to the first function.

    Args:
        names: Of the columns of `seconds`.
        seconds: f64[rounds, functions]; rounds of several calls of `interleaved` may be joined.
        kinds: For each function i64[rounds], of what kind its steps were; None for one kind.

    Returns:
        For each name its cost.

    Example:
        >>> costs(("a", "b"), np.array([[1.0, 2.0], [2.0, 6.0], [1.0, 2.0]]))["b"].ratio
        2.0
    """
    ratios = seconds / seconds[:, :1]
    low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0).tolist()
    kinds = [np.zeros(len(seconds), int)] * len(names) if kinds is None else kinds
    return {
        name: Cost(
            mean_over_kinds(seconds[:, i], kinds[i]),
            ratio[i],
            low[i],
            high[i],
            mean_over_kinds(ratios[:, i], kinds[i]),
            len(set(kinds[i])),
        )
        for i, name in enumerate(names)
    }


def kinds_of(selected: np.ndarray) -> np.ndarray:
    """i64[rounds]: of what kind steps were that perturbed the layers bool[rounds, L]."""
    return np.unique(selected, axis=0, return_inverse=True)[1].reshape(-1)


def mean_over_kinds(values: np.ndarray, kinds: np.ndarray) -> float:
    """The median of each kind, weighted by its share.

    Example:
        >>> mean_over_kinds(np.array([1.0, 1.0, 9.0, 2.0]), np.array([0, 0, 0, 1]))
        1.25
    """
    return float(sum((kinds == k).mean() * np.median(values[kinds == k]) for k in set(kinds)))
