"""From a loss and a selection to the passes that compute nothing twice."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lsam_jax.engine import effects
from lsam_jax.engine.cpu_convolutions import canonical_on_cpu, holds_convolution
from lsam_jax.engine.gating import gated_value_and_grad
from lsam_jax.engine.jaxprs import Transformation
from lsam_jax.engine.ladder import Ladder
from lsam_jax.engine.step_rules import Chosen
from lsam_jax.engine.traced_loss import TracedLoss
from lsam_jax.engine.two_pass import Passes, as_it_is, at_cut, known_passes

Leaves = Sequence[Any]


class Cutting(NamedTuple):
    """How a loss is cut.

    Attributes:
      places: gives the positions at which, ascending; asked only if there is a choice.
      gate: whether to skip the weight gradients of unselected layers by conditionals.
      inside: a transformation of what runs inside a conditional.
    """

    places: Callable[[], Sequence[int]]
    gate: bool
    inside: Transformation


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
    places, gate, inside = list(cutting.places()), cutting.gate, cutting.inside
    if len(places) == 1 or effects.holds_references(program.closed.jaxpr):
        gradient = partial(gated_value_and_grad, gate=gate, inside=inside)
        return at_cut(program, leaves, chosen, places[0], gradient, chosen.selected)
    return Ladder(program, leaves, chosen, places, gate, inside, of_aux)


def in_conditional(program: TracedLoss) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The transformation of what runs inside a conditional; see `cpu_convolutions`."""
    return canonical_on_cpu if holds_convolution(program.closed.jaxpr) else as_it_is
