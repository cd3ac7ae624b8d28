"""From a loss and a selection to the passes that compute nothing twice."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lsam_jax.engine import effects
from lsam_jax.engine.conditionals import conditionals_of
from lsam_jax.engine.cpu_convolutions import holds_convolution
from lsam_jax.engine.gating import gated_value_and_grad
from lsam_jax.engine.ladder import Ladder
from lsam_jax.engine.step_rules import Chosen
from lsam_jax.engine.traced_loss import TracedLoss
from lsam_jax.engine.two_pass import Passes, at_cut, known_passes

Leaves = Sequence[Any]


class Cutting(NamedTuple):
    """How a loss is cut.

    Attributes:
      places: gives the positions at which, ascending; asked only if there is a choice.
      skip: whether segments in which nothing differs are left out; None: where that pays.
      gate: whether the weight gradients of unselected layers are, likewise.
    """

    places: Callable[[], Sequence[int]]
    skip: bool | None
    gate: bool | None


def passes_of(
    program: TracedLoss, leaves: Leaves, chosen: Chosen, cutting: Cutting, of_aux: bool = False
) -> Passes:
    """A loss, for a selection.

    Three things follow from what is known before compilation. The layers to perturb are known: one
    cut, and only their gradients in the ascent. Only the candidates are known: a `Ladder`, which
    walks to the first selected layer, and the weight gradients of the others gated. Or there is but
    one place to cut, or a reference in the loss, which a ladder cannot hand on.

    Args:
      program: the loss.
      leaves: the parameters.
      chosen: which layers are perturbed.
      cutting: how to cut it.
      of_aux: whether aux is differentiated too.
    """
    if isinstance(chosen.selected, np.ndarray):
        return known_passes(program, leaves, chosen)
    places = list(cutting.places())
    jaxpr = program.closed.jaxpr
    conditionals = conditionals_of(holds_convolution(jaxpr), cutting.skip, cutting.gate)
    if len(places) == 1 or effects.holds_references(jaxpr):
        gradient = partial(gated_value_and_grad, conditionals=conditionals)
        return at_cut(program, leaves, chosen, places[0], gradient, chosen.selected)
    return Ladder(program, leaves, chosen, places, conditionals, of_aux)
