"""Numbers as text."""

import math

from lsam_jax.experiments.report.statistics import ENOUGH, Difference, Spread

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def spread_text(found: Spread, digits: int, scale: float = 1.0) -> str:
    """Mean and sample standard deviation."""
    if not math.isfinite(found.mean):
        return "not finite"
    mean = f"{scale * found.mean:.{digits}f}"
    return mean if found.std is None else f"{mean} ± {scale * found.std:.{digits}f}"


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
