"""What is descended: mixes of the clean gradient and the one at the perturbed weights.

A combination is a function `(g, h, alpha) -> direction` for one array of a selected layer, `g`
and `h` being its gradients at the clean and at the perturbed weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Combination = Callable[[Any, Any, Any], Any]


def mix(g: jax.Array, h: jax.Array, alpha: Any) -> jax.Array:
    """`(1 - alpha) g + alpha h` (the paper, eq. 6; Zhao et al. 2022, eq. 2)."""
    return ((1 - alpha) * g + alpha * h).astype(h.dtype)


def perturbed_only(g: jax.Array, h: jax.Array, alpha: Any) -> jax.Array:
    """`h`: SAM's choice, alpha = 1, without a multiplication that rounds or turns inf to NaN."""
    del g, alpha
    return h


def where_selected(combination: Combination, g: Any, h: Any, alpha: Any, selected: Any) -> Any:
    """The combination for a selected layer, `h` for any other."""
    if selected is True:
        return combination(g, h, alpha)
    return jnp.where(selected, combination(g, h, alpha), h)
