"""What the second pass differentiates: the loss, or something else at the perturbed weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lsam_jax.engine.step_rules import Leaves, PerturbedPass, ValueAuxGrad

Second = Callable[[Any, Any, Callable[[Leaves], Any], Leaves, PerturbedPass], ValueAuxGrad]


class Descent(NamedTuple):
    """What the second pass differentiates; without functions, the loss.

    Attributes:
      prepare: from the user's loss (a function of the parameters) and whether it has aux to a
        loss with aux `(user's aux, what the second pass needs)`; raises if it cannot be done.
      second: `(loss_fn, tree_of, need, clean, perturbed) -> ValueAuxGrad`: `tree_of` takes leaves
        to the parameters, and `need` those of aux to what the second pass needs; `clean` are the
        leaves of aux of the clean pass, `perturbed` the engine's `PerturbedPass`.
      is_gradient: whether that is a gradient of the loss, so that along the perturbation it says by
        how much the loss rises.
    """

    prepare: Callable[[Any, bool], Callable[[Any], Any]] | None = None
    second: Second | None = None
    is_gradient: bool = True


of_loss = Descent()
"""The loss."""
