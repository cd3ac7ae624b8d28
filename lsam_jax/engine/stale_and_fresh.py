"""An ascent that is stale in front of a layer and fresh from it on; see `lsam_jax.stale`.

What stands in front moves first, along what is remembered. The fresh gradient of the rest is then
taken at weights whose front is the one that is descended too: the engine runs it once, forward and
backward, for both passes.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays.vectors import ratio, squared_norm
from lsam_jax.engine.step_rules import Chosen, Leaves, StepResult, StepRules
from lsam_jax.engine.traced_loss import TracedLoss
from lsam_jax.engine.two_pass import both_passes, in_one, in_two, known_passes, nothing_moves, put


def stale_and_fresh(
    program: TracedLoss,
    leaves: Leaves,
    chosen: Chosen,
    first: int,
    rules: StepRules,
) -> StepResult:
    """One step, whose loss and aux are those at the perturbed weights.

    Args:
      program: the loss.
      leaves: the parameters.
      chosen: which layers are perturbed, known before the step is compiled.
      first: the position of the first layer whose gradient is fresh.
      rules: those of the method.
    """
    late = chosen.candidates & (chosen.position >= first)
    behind = _FreshBehind(rules, leaves, chosen, late)
    moved = put(leaves, behind.front, behind.moved_front)
    fresh = chosen._replace(candidates=late, selected=late)
    if not late.any():
        return nothing_moves(program, moved, behind)
    return both_passes(known_passes(program, moved, fresh), behind)


class _FreshBehind:
    """The rules of what stands behind, once what stands in front has moved."""

    has_clean_pass = False
    descend_unselected = True
    estimate = None
    descend = None

    def __init__(
        self,
        rules: StepRules,
        leaves: Leaves,
        chosen: Chosen,
        late: np.ndarray,
    ):
        self._rules = rules
        self._index = [n for n, moves in enumerate(chosen.among(chosen.candidates)) if moves]
        self._is_late = [bool(late[chosen.of_leaf[n]]) for n in self._index]
        self._w = [leaves[n] for n in self._index]
        self.front, self._back = in_two(self._index, self._is_late)
        assert rules.estimate is not None
        _, _, remembered, _ = rules.estimate(None, self._w, self._index)
        self._stale_front, self._stale_back = in_two(remembered, self._is_late)
        moved, self._radius = rules.perturb(remembered, self._w, self._index)
        self.moved_front, _ = in_two(moved, self._is_late)

    def _joined(self, g: Leaves) -> list[Any]:
        """What was remembered in front; behind, the fresh gradient at the length of that there."""
        scale = ratio(jnp.sqrt(squared_norm(self._stale_back)), squared_norm(g))
        fresh = [(scale * x).astype(x.dtype) for x in g]
        return in_one(self._stale_front, fresh, self._is_late)

    def perturb(self, g: Leaves, w: Leaves, index: Sequence[int]) -> tuple[Leaves, Any]:
        """What stands behind moved, by the method's perturbation of everything."""
        del w, index
        moved, radius = self._rules.perturb(self._joined(g), self._w, self._index)
        return in_two(moved, self._is_late)[1], radius

    def finish(
        self, g: Leaves, h: Leaves, w: Leaves, clean: Any, perturbed: Any, radius: Any
    ) -> Any:
        """The method's own outcome, of everything."""
        uphill = put(g, self._index, self._joined([g[n] for n in self._back]))
        there = put(w, self.front, self.moved_front)
        radius = radius if self._back else self._radius
        return self._rules.finish(uphill, h, there, None, perturbed, radius)
