"""What the engine offers at the perturbed weights."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Leaves = Sequence[Any]
Found = tuple[Any, list[Any], Leaves]
"""The perturbed loss, the leaves of aux, and the gradient of all arrays."""


class Second(NamedTuple):
    """What the engine offers at the perturbed weights.

    Attributes:
      gradient: of a function of loss and aux; gives `Found`. What does not depend on the perturbed
        layers is not computed again.
      forward: gives loss and aux.
      weights: all arrays.
    """

    gradient: Callable[[Callable[[Any, list[Any]], Any]], Found]
    forward: Callable[[], tuple[Any, list[Any]]]
    weights: Leaves
