"""Spread over seeds, and whether a difference is more than that."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import stats

Row = TypeVar("Row", bound=Any)
ENOUGH = 3
"""Seeds that a test needs."""
CONFIDENCE = 0.95
"""Of intervals."""


class Spread(NamedTuple):
    """Mean and sample standard deviation (None of one value) of n values."""

    mean: float
    std: float | None
    n: int


class Difference(NamedTuple):
    """Mean paired difference over the seeds that both have.

    Attributes:
        mean: Of the differences; NaN where there is no common seed.
        low: Of the 95 % confidence interval by Student's t; None of less than `ENOUGH` seeds or
            where the differences are all the same.
        high: Likewise.
        p: Of the two-sided paired t-test, likewise.
        n: How many seeds there are.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


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


def spread(values: Sequence[float | None]) -> Spread:
    """Of at least one value; None is not a number."""
    found = np.array(values, float)
    deviation = float(found.std(ddof=1)) if len(found) > 1 else None
    return Spread(float(found.mean()), deviation, len(found))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """How much larger values are than a baseline's.

    Runs of one seed share their initial weights and the order of their data, so they are pairs.
    """
    seeds = sorted(values.keys() & baseline.keys())
    ours = np.array([values[seed] for seed in seeds])
    theirs = np.array([baseline[seed] for seed in seeds])
    differences = ours - theirs
    mean = float(differences.mean()) if seeds else math.nan
    # Rounding alone would make a test of equal differences certain of anything.
    if len(seeds) < ENOUGH or not differences.std() > 1e-12 * np.abs(ours).max():
        return Difference(mean, None, None, None, len(seeds))
    test = stats.ttest_rel(ours, theirs)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), float(test.pvalue), len(seeds))


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
    low, high = _fieller(a, b) if n >= ENOUGH else (None, None)
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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values adjusted for their number (Holm, 1979); None stays and is not counted.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    most = 0.0
    for rank, (p, i) in enumerate(known):
        most = max(most, min(1.0, p * (len(known) - rank)))
        adjusted[i] = most
    return adjusted


def adjusted(rows: Iterable[Row]) -> list[Row]:
    """Rows with a `difference`, or None for it, whose `p` is that of their tests after `holm`."""
    rows = list(rows)
    found = holm([row.difference.p if row.difference else None for row in rows])
    return [row._replace(p=p) for row, p in zip(rows, found, strict=True)]


def listed(words: Sequence[str]) -> str:
    """Names as a sentence has them.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def spoken(name: str) -> str:
    """What headings call a table or figure.

    Example:
        >>> spoken("table1"), spoken("grid")
        ('Table 1', 'grid')
    """
    found = re.fullmatch(r"(table|figure)(\d+)", name)
    return f"{found[1].capitalize()} {found[2]}" if found else name


def counted(number: int, what: str) -> str:
    """How many there are of a thing.

    Example:
        >>> counted(1, "seed"), counted(2, "seed")
        ('1 seed', '2 seeds')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def spread_text(found: Spread, digits: int, scale: float = 1.0, between: str = " ± ") -> str:
    """Mean and sample standard deviation."""
    if not math.isfinite(found.mean):
        return "not finite"
    mean = f"{scale * found.mean:.{digits}f}"
    return mean if found.std is None else f"{mean}{between}{scale * found.std:.{digits}f}"


def difference_text(found: Difference | None, digits: int = 2, scale: float = 1.0) -> str:
    """Mean paired difference, signed."""
    if found is None or not math.isfinite(found.mean):
        return NOTHING
    return signed(scale * found.mean, digits)


def interval_text(found: Difference | None, digits: int = 2, scale: float = 1.0) -> str:
    """The confidence interval, or why there is none."""
    if found is None:
        return NOTHING
    if found.n < ENOUGH:
        return "too few seeds"
    if found.low is None or found.high is None:
        return "no spread"
    return f"{signed(scale * found.low, digits)} to {signed(scale * found.high, digits)}"


def p_text(p: float | None) -> str:
    """A p value."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float, digits: int) -> str:
    """With a sign that is as wide as a digit; nothing has none.

    Example:
        >>> signed(0.125, 1), signed(-0.001, 2)
        ('+0.1', '0.00')
    """
    shown = f"{abs(value):.{digits}f}"
    if float(shown) == 0:
        return shown
    return (MINUS if value < 0 else "+") + shown


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (None of one value), and the values."""
    found = spread(values)
    return {"mean": found.mean, "std": found.std, "values": list(values)}


def statistics_text(statistics: Mapping[str, Any], digits: int, scale: float = 1.0) -> str:
    """What `over_seeds` found, as text."""
    return spread_text(spread(statistics["values"]), digits, scale, between=" ±")
