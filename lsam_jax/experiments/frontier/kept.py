"""Which share of SAM's gain over SGD a method keeps, and how sure that is."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Kept(NamedTuple):
    """A share of SAM's gain.

    Attributes:
        share: 0 is SGD's accuracy, 1 SAM's; NaN where SAM gains nothing at all.
        low: Of the 95 % interval; None where the gain is too uncertain for the share to have one,
            or there are less than three seeds.
        high: Likewise.
        seeds: How many seeds all three have.
    """

    share: float
    low: float | None
    high: float | None
    seeds: int


def kept(method: Mapping[int, float], sgd: Mapping[int, float], sam: Mapping[int, float]) -> Kept:
    """The ratio of two mean paired differences, with Fieller's interval.

    With a the method's differences from SGD, and b those of SAM, the interval holds every share s
    for which a t-test does not tell the mean of a - s b from zero (Fieller, `Some problems in
    interval estimation <https://doi.org/10.1111/j.2517-6161.1954.tb00159.x>`_, 1954).

    Example:
        >>> sgd, sam = dict.fromkeys(range(4), 0.70), {0: 0.90, 1: 0.91, 2: 0.89, 3: 0.90}
        >>> half = kept({0: 0.80, 1: 0.81, 2: 0.80, 3: 0.79}, sgd, sam)
        >>> round(half.share, 2), round(half.low, 2), round(half.high, 2)
        (0.5, 0.44, 0.56)
    """
    seeds = sorted(method.keys() & sgd.keys() & sam.keys())
    a = np.array([method[seed] - sgd[seed] for seed in seeds])
    b = np.array([sam[seed] - sgd[seed] for seed in seeds])
    n = len(seeds)
    if n == 0 or not b.mean():
        return Kept(math.nan, None, None, n)
    share = float(a.mean() / b.mean())
    low, high = _fieller(a, b) if n > 2 else (None, None)
    return Kept(share, low, high, n)


def _fieller(a: np.ndarray, b: np.ndarray) -> tuple[float | None, float | None]:
    """Where `(mean(a) - s mean(b))^2 <= t^2 var(a - s b) / n`, a quadratic in s."""
    n = len(a)
    t = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    (aa, ab), (_, bb) = np.cov(a, b) * t**2 / n
    square, linear, constant = b.mean() ** 2 - bb, a.mean() * b.mean() - ab, a.mean() ** 2 - aa
    inner = linear**2 - square * constant
    if square <= 0 or inner < 0:  # SAM's gain is not told from nothing
        return None, None
    reach = math.sqrt(inner)
    return float((linear - reach) / square), float((linear + reach) / square)
