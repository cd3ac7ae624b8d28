"""The engine for a step that has its clean gradient and may take a second one.

The clean gradient of everything is computed first, whatever comes; the perturbed pass is one
branch of a conditional. What the two share is computed once: the layers in front of the first
that may move run forward once, as in `two_pass`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from lsam_jax.engine.step_rules import Leaves, OptionalStepRules, StepResult
from lsam_jax.engine.traced_loss import PrefixSuffix
from lsam_jax.engine.two_pass import in_one, in_two


def one_or_two(
    parts: PrefixSuffix,
    leaves: Leaves,
    in_suffix: Sequence[bool],
    rules: OptionalStepRules,
    branch: Callable[..., Any],
) -> StepResult:
    """One step.

    Args:
      parts: the loss, cut.
      leaves: the parameters.
      in_suffix: which of them may move.
      rules: those of the method.
      branch: `(called_for, twice, once, operand)`, a conditional.
    """
    early_params, late_params = in_two(leaves, in_suffix)
    index = [n for n, late in enumerate(in_suffix) if late]
    hidden, pull_back, fixed = jax.vjp(parts.prefix, early_params, has_aux=True)

    def gradient(late: Leaves) -> tuple[Any, list[Any], list[Any]]:
        suffix = parts.suffix()

        def loss_of(hidden: Leaves, params: Leaves) -> tuple[Any, list[Any]]:
            return suffix(hidden, fixed, params)

        both = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
        (loss, aux), (at_cut, of_late) = both(hidden, late)
        return loss, aux, in_one(pull_back(at_cut)[0], of_late, in_suffix)

    loss, aux, g = gradient(late_params)
    called_for, memory = rules.decide(g)

    def twice(late: Leaves) -> Any:
        up = rules.masked([g[n] for n in index], index)
        moved, radius = rules.perturb(up, late, index)
        perturbed_loss, _, h = gradient(moved)
        nothing = [None] * len(early_params)
        g_late, w_late = (in_one(nothing, x, in_suffix) for x in (up, moved))
        return rules.finish(g_late, h, w_late, loss, perturbed_loss, radius)

    def once(late: Leaves) -> Any:
        return rules.plain_step(g, loss)

    out = branch(called_for, twice, once, late_params)
    return StepResult(loss, aux, rules.decided(out, memory))
