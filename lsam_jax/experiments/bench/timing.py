"""Wall-clock comparison of compiled functions on a machine that does other things too.

The functions run in turn, A B C A B C ..., so a slow moment meets all of them, and costs are
compared within a round: the ratio of two functions is the median of the rounds' ratios.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Cost(NamedTuple):
    """Cost of one function relative to the first of its comparison.

    Attributes:
        seconds: Median of its own times.
        ratio: Median over the rounds of its time by the first function's.
        low: Lower quartile of those ratios.
        high: Upper quartile.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
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

    Raises:
        ValueError: When there is nothing to time.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    if not functions:
        raise ValueError("functions is empty; give at least one to time")
    seconds = np.zeros((rounds, len(functions)))
    for turn in range(-warmup, rounds):
        for column, function in enumerate(functions.values()):
            start = clock()
            jax.block_until_ready(function())
            if turn >= 0:
                seconds[turn, column] = clock() - start
    return seconds


def costs(names: tuple[str, ...], seconds: np.ndarray) -> dict[str, Cost]:
    """Costs relative to the first function.

    Args:
        names: Of the columns of `seconds`.
        seconds: f64[rounds, functions]; rounds of several calls of `interleaved` may be joined.

    Returns:
        For each name its cost.

    Example:
        >>> costs(("a", "b"), np.array([[1.0, 2.0], [2.0, 6.0], [1.0, 2.0]]))["b"].ratio
        2.0
    """
    ratios = seconds / seconds[:, :1]
    low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    median = np.median(seconds, axis=0)
    return {
        name: Cost(float(median[i]), float(ratio[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(names)
    }
