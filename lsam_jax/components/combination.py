"""What is descended: a direction from the clean gradient and the one at the perturbed weights.

`mix` of a combination is a function `(g, h, at, now, memory) -> (direction, memory)` of lists of
arrays, one for each array that may move, `g` (zero where a layer is not selected) and `h` being
its gradients at the clean and at the perturbed weights. What it gives for an array that is not
selected is not used: that one descends on `h`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lsam_jax import arguments
from lsam_jax.components.context import Arrays, StepContext, Targets, remember_nothing
from lsam_jax.layers.leaves import Layers

Mixed = tuple[list[Any], Any]
"""The direction, one array for each that may move, and the memory."""


class Combination(NamedTuple):
    """A pure function that makes the direction of descent, and its memory.

    Attributes:
      mix: `(g, h, at, now, memory) -> (direction, memory)`.
      plain_step: `(g, now, memory) -> direction`, for all arrays, in a step without perturbation.
      init: makes its memory from the layers and the leaves of the parameters.
      descend_unselected: whether arrays of layers that are not selected descend at all.
      uses_clean: whether `mix` needs the clean gradient, g; if not, any ascent will do.
    """

    mix: Callable[[Arrays, Arrays, Targets, StepContext, Any], Mixed]
    plain_step: Callable[[Arrays, StepContext, Any], Arrays] = lambda g, now, memory: g
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    descend_unselected: bool = True
    uses_clean: bool = True


def _mix(g: Arrays, h: Arrays, at: Targets, now: StepContext, memory: Any) -> Mixed:
    a = now.alpha
    return [((1 - a) * x + a * y).astype(y.dtype) for x, y in zip(g, h)], memory


def _perturbed_only(g: Arrays, h: Arrays, at: Targets, now: StepContext, memory: Any) -> Mixed:
    return list(h), memory


mix = Combination(_mix)
"""`(1 - alpha) g + alpha h` (the paper, eq. 6; Zhao et al. 2022, eq. 2)."""

perturbed_only = Combination(_perturbed_only, uses_clean=False)
"""`h`: SAM's choice, alpha = 1, without a multiplication that rounds or turns inf to NaN."""


selected_only = Combination(_perturbed_only, descend_unselected=False, uses_clean=False)
"""`h` for the selected layers, and 0 for all others (SL-SAM)."""


def mixed(alpha: arguments.Scalar) -> Combination:
    """`mix`, or where alpha is 1 `perturbed_only`, which needs no clean gradient."""
    return perturbed_only if arguments.equals(alpha, 1.0) else mix
