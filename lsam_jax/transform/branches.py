"""Which way a step goes: with a perturbation, or without."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lsam_jax.engine.optional_second_pass import one_or_two
from lsam_jax.engine.step_rules import Chosen, Leaves, OptionalStepRules, StepResult
from lsam_jax.engine.traced_loss import PrefixSuffix


class Branches(NamedTuple):
    """The ways that a step can go, as the engine, or the loss as it is, takes them.

    Attributes:
      perturbed: from the leaves of the parameters to a step with a perturbation.
      value_and_grad: from these to `((loss, aux), gradient)`, of a step without one.
      cut: from which leaves may move to the loss, cut in front of them.
      branch: `(called_for, one, other, operand)`, a conditional.
      one_loss: whether ascent and descent are of one loss.
    """

    perturbed: Callable[[Leaves], StepResult]
    value_and_grad: Callable[[Leaves], Any]
    cut: Callable[[Sequence[bool]], PrefixSuffix]
    branch: Callable[..., Any]
    one_loss: bool


class CadencedRules(OptionalStepRules, Protocol):
    """A method at one step, which says when it perturbs."""

    def starts_plain(self, same_first_pass: bool) -> bool:
        """Whether the step starts with the clean gradient of everything, come what may.

        Args:
          same_first_pass: whether a step that perturbs asks for the clean gradient of all arrays.
        """
        ...

    def due(self) -> Any:
        """bool[], whether the step perturbs; None if it does, or if its gradient decides."""
        ...


def taken(branches: Branches, leaves: Leaves, chosen: Chosen, rules: CadencedRules) -> StepResult:
    """The step that the method calls for."""
    may_move, known = chosen.among(chosen.candidates), isinstance(chosen.selected, np.ndarray)
    # Where everything moves, the ascent needs the whole clean gradient, as a step without one does.
    same_first_pass = branches.one_loss and known and all(may_move)
    if chosen.candidates.any() and rules.starts_plain(same_first_pass):
        parts = branches.cut(may_move)
        return one_or_two(parts, leaves, may_move, rules, branches.branch)
    due = rules.due()
    if due is None:
        return branches.perturbed(leaves)

    def unperturbed(leaves: Leaves) -> StepResult:
        (loss, aux), g = branches.value_and_grad(leaves)
        return StepResult(loss, aux, rules.plain_step(g, loss))

    return branches.branch(due, branches.perturbed, unperturbed, leaves)
