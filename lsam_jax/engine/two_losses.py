"""The engine where one loss is climbed and another descended: a part of a batch, and the whole.

The two passes share nothing: the ascent gradient is that of the arrays that may move alone, whose
backward pass ends at the first of them; the descent is one plain gradient at the perturbed
weights. On a share q of a batch a step costs 1 + q at most.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from lsam_jax.arrays.promotion import InParts
from lsam_jax.engine.step_rules import StepResult, StepRules
from lsam_jax.engine.traced_loss import TracedLoss
from lsam_jax.engine.two_pass import Differentiable, Passes, climb, put


@dataclasses.dataclass(frozen=True, eq=False)
class AscentLoss(InParts):
    """What is climbed, where it is not the loss that is descended.

    Attributes:
      loss_fn: a function of the parameters, of the kind of the other loss.
      clean_aux: whether the step's aux is that of this loss, at the clean weights.
    """

    loss_fn: Callable[[Any], Any]
    clean_aux: bool = False


def check_same_aux(part: TracedLoss, whole: TracedLoss) -> None:
    """Raises a ValueError unless aux of both losses is of the same shapes."""
    shapes = [[x.shape for x in loss.closed.out_avals[1:]] for loss in (part, whole)]
    if shapes[0] != shapes[1]:
        found = [(a, b) for a, b in zip(*shapes) if a != b]
        where = f" ({found[0][0]} of the part, {found[0][1]} of the whole)" if found else ""
        raise ValueError(
            "clean_aux=True takes aux from the part of the batch in steps that perturb, and from "
            f"the whole in the steps between: aux must not depend on the size of the batch{where}. "
            "Return means over the samples, say, or leave clean_aux out."
        )


def two_losses(
    ascent: Passes, clean_aux: bool, descent: Differentiable, rules: StepRules
) -> StepResult:
    """Both passes of one step.

    Args:
      ascent: the loss that is climbed.
      clean_aux: whether the step's aux is that of this loss.
      descent: the loss that is descended.
      rules: those of the method.

    Returns:
      The loss that is descended, at the perturbed weights, and its aux unless `clean_aux`.
    """
    index, leaves = ascent.index, ascent.leaves
    nowhere = [None] * len(leaves)
    clean, aux_there, g, moved, radius = climb(ascent, rules)
    wanted = None if rules.descend_unselected else [n in index for n in range(len(leaves))]
    (loss, aux), found = descent.value_and_grad(put(leaves, index, moved), wanted)
    h = found if wanted is None else put(nowhere, index, found)
    w = put(nowhere, index, moved)
    outcome = rules.finish(put(nowhere, index, g), h, w, clean, loss, radius)
    return StepResult(loss, aux_there if clean_aux else aux, outcome)
