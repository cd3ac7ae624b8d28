"""Sizes that are not known yet: a step exported by `jax.export` for any batch size.

What is counted serves as a ratio only, so one size for every symbolic dimension will do.
"""

import operator
import re
from typing import Any

from jax import export

ASSUMED = 128
"""What every variable of a symbolic size counts as."""

FUNCTIONS = {"floordiv": operator.floordiv, "mod": operator.mod, "max": max, "min": min}
"""What a symbolic size is written with, besides + - * and ^."""


def is_known(size: Any) -> bool:
    """Whether a size is a number."""
    return not export.is_symbolic_dim(size)


def count(size: Any) -> int:
    """The number to count a size as; a symbolic one with `ASSUMED` for its variables, at least 1.

    >>> from jax import export
    >>> from lsam_jax.arrays.symbolic import count
    >>> batch, length = export.symbolic_shape("batch, length")
    >>> count(8), count(batch), count(2 * batch * (length + 1)), count(length // 64 - 64)
    (8, 128, 33024, 1)
    """
    if is_known(size):
        return int(size)
    # JAX has no public way to evaluate a size, but what it prints is what it documents: a variable
    # is a name that no parenthesis follows.
    text = re.sub(r"\b[^\W\d]\w*\b(?!\()", str(ASSUMED), str(size)).replace("^", "**")
    return max(1, int(eval(text, {"__builtins__": {}, **FUNCTIONS})))
