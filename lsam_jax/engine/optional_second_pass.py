"""The engine for a step that has its clean gradient and may take a second one.

The clean gradient of everything is computed first, whatever comes; the perturbed pass is one
branch of a conditional. What the two share is computed once: the layers in front of the first
that may move run forward once, as in `two_pass`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from lsam_jax.engine.traced_loss import Cut
from lsam_jax.engine.two_pass import Passes, in_one, in_two

Leaves = Sequence[Any]


def one_or_two(
    parts: Cut,
    leaves: Leaves,
    in_suffix: Sequence[bool],
    assembly: Any,
    branch: Callable[..., Any],
) -> Passes:
    """One step.

    Args:
      parts: the loss, cut.
      leaves: the parameters.
      in_suffix: which of them may move.
      assembly: the method.
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
    called_for, memory = assembly.decide(g)

    def twice(late: Leaves) -> Any:
        up = assembly.masked([g[n] for n in index], index)
        moved, radius = assembly.perturb(up, late, index)
        perturbed_loss, _, h = gradient(moved)
        nothing = [None] * len(early_params)
        g_late, w_late = (in_one(nothing, x, in_suffix) for x in (up, moved))
        return assembly.finish(g_late, h, w_late, loss, perturbed_loss, radius)

    def once(late: Leaves) -> Any:
        return assembly.alone(g, loss)

    out = branch(called_for, twice, once, late_params)
    return Passes(loss, aux, assembly.decided(out, memory))
