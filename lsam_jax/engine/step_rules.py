"""What the engine asks of a method at one step, and what a step comes to."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lsam_jax.arrays.vectors import Place

Leaves = Sequence[Any]
ValueAuxGrad = tuple[Any, list[Any], Leaves]
"""The perturbed loss, the leaves of aux, and the gradient of all arrays."""


class Chosen(NamedTuple):
    """Which layers a step perturbs, and where they stand.

    Attributes:
      of_leaf: the layer of each leaf of the parameters, or -1; those of its rows, if it has some.
      position: i64[L], the place of each layer in the network.
      candidates: bool[L], static; the layers that may be selected.
      selected: bool[L]; static if a NumPy array.
    """

    of_leaf: Sequence[Place]
    position: np.ndarray
    candidates: np.ndarray
    selected: Any

    def positions(self) -> list[int]:
        """Of each leaf, the last place of a layer that may be selected, and otherwise -1."""
        place = np.where(self.candidates, self.position, -1)
        return [-1 if i == -1 else int(np.max(place[np.asarray(i)])) for i in self.of_leaf]

    def among(self, layers: np.ndarray) -> list[bool]:
        """Of each leaf, whether a layer of its is among these, bool[L]."""
        return [i != -1 and bool(np.any(layers[np.asarray(i)])) for i in self.of_leaf]


class StepResult(NamedTuple):
    """What the engine computes.

    Attributes:
      loss: the clean loss; that at the perturbed weights where there is no clean pass.
      aux: the leaves of aux, from the same pass.
      outcome: what `StepRules.finish` made of the two gradients.
    """

    loss: Any
    aux: list[Any]
    outcome: Any


class PerturbedPass(Protocol):
    """What the engine offers at the perturbed weights.

    Attributes:
      weights: all arrays.
    """

    weights: Any

    def gradient(self, of: Callable[[Any, list[Any]], Any]) -> ValueAuxGrad:
        """Loss, aux, and the gradient of a function of both.

        What does not depend on the perturbed layers is not computed again.
        """
        ...

    def forward(self) -> tuple[Any, list[Any]]:
        """Loss and aux."""
        ...


class StepRules(Protocol):
    """A method at one step, as the engine sees it: all that the engine does not decide.

    `index` holds the places among the leaves of the parameters of those that may move, and a list
    that goes with it one array for each of these.

    Attributes:
      has_clean_pass: whether the first pass is at the clean weights; if not, its loss and aux are
        not the step's.
      descend_unselected: whether the descent gradient of layers that are not selected is asked for.
      estimate: stands in for the gradient in the ascent, unless it is None: from a function of the
        arrays that may move that gives loss and aux, these arrays and `index` to loss, aux (or
        None and None), the ascent direction and the clean gradient.
      descend: stands in for the gradient of the loss in the second pass, unless it is None: from
        the leaves of the clean aux and a `PerturbedPass`.
    """

    @property
    def has_clean_pass(self) -> bool: ...  # noqa: D102

    @property
    def descend_unselected(self) -> bool: ...  # noqa: D102

    @property
    def estimate(self) -> Callable[[Any, Leaves, Sequence[int]], Any] | None: ...  # noqa: D102

    @property
    def descend(self) -> Callable[[Leaves, PerturbedPass], ValueAuxGrad] | None: ...  # noqa: D102

    def perturb(self, g: Leaves, w: Leaves, index: Sequence[int]) -> tuple[Leaves, Any]:
        """The weights `w` moved along `g`, and the radius, which `finish` wants to know."""
        ...

    def finish(
        self, g: Leaves, h: Leaves, w: Leaves, clean: Any, perturbed: Any, radius: Any
    ) -> Any:
        """The outcome of a step that perturbs.

        Args:
          g: the ascent gradients of all arrays: None for one that cannot move, zeros for one that
            did not.
          h: the descent gradients; None where nothing is asked for.
          w: the perturbed weights, None for one that cannot move.
          clean: the clean loss, or None.
          perturbed: the loss at `w`, or None.
          radius: what `perturb` gave.
        """
        ...


class OptionalStepRules(StepRules, Protocol):
    """A method that decides by the clean gradient whether a step perturbs."""

    def masked(self, g: Leaves, index: Sequence[int]) -> list[Any]:
        """`g`, with zeros for layers that are not selected."""
        ...

    def plain_step(self, g: Leaves, loss: Any) -> Any:
        """The outcome of a step that perturbs nothing, with the clean gradient of all arrays."""
        ...

    def decide(self, g: Leaves) -> tuple[Any, Any]:
        """Whether the step, given its clean gradient, perturbs; and what `decided` is to add."""
        ...

    def decided(self, outcome: Any, memory: Any) -> Any:
        """The outcome, with what `decide` gave."""
        ...
