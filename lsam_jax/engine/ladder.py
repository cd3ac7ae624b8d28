"""Both passes as four walks along the chain of a network's segments.

Which layers are perturbed is known only when a step runs. The clean walk forward runs all
segments and keeps what their way back needs. The ascent walks back from the output to the first
selected layer; the perturbed walk goes forward from there on; the descent walks back through
everything. Whether the two in the middle visit a segment is one conditional each, so the program
holds two forward and two backward passes, whatever the number of cuts.

With a segment from p_k to p_(k+1) in the order of the network, and the first selected layer in
segment s, segment k is visited if k >= s. Errors are propagated out of it only if k > s.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax.arrays.vectors import one_by_one
from lsam_jax.engine import jaxprs
from lsam_jax.engine.chain import Asked, Chain, Part, chain, error_of
from lsam_jax.engine.conditionals import Conditionals
from lsam_jax.engine.flops import total_flops
from lsam_jax.engine.gating import worth_gating
from lsam_jax.engine.loop_rung import LoopRung
from lsam_jax.engine.rung import REST, UP, Rung
from lsam_jax.engine.step_rules import Chosen, ValueAuxGrad
from lsam_jax.engine.traced_loss import TracedLoss
from lsam_jax.engine.two_pass import put

Leaves = Sequence[Any]


class Ladder:
    """A loss in segments, for layers that are chosen when a step runs.

    Args:
      program: the loss, which holds no references.
      leaves: the parameters.
      chosen: which layers are perturbed.
      places: the positions at which to cut, ascending.
      conditionals: how to leave out what is not needed.
      of_aux: whether aux is differentiated too.
    """

    def __init__(
        self,
        program: TracedLoss,
        leaves: Leaves,
        chosen: Chosen,
        places: Sequence[int],
        conditionals: Conditionals,
        of_aux: bool,
    ):
        self.chain: Chain = chain(program.closed, leaves, chosen, places, of_aux)
        self.leaves = list(leaves)
        self.index = [n for n, place in enumerate(chosen.positions()) if place >= 0]
        self._conditionals = conditionals
        self.selected = self._selected(chosen)
        self.all = self._all() if conditionals.alike else None
        self.rungs: list[Any] = []
        self.clean = Walk(self, self.leaves)

    def rung(self, k: int, values: dict[Any, Any]) -> Any:
        """A segment as a `Rung` or a `LoopRung`, traced with these values when first asked for."""
        if k == len(self.rungs):
            segment = self.chain.segments[k]
            kind: Any = Rung if segment.loop is None else LoopRung
            self.rungs.append(kind(segment, self.chain, values, self._conditionals))
        return self.rungs[k]

    def clean_gradient(self) -> ValueAuxGrad:
        """Loss, aux, and the gradient of the arrays that may move: zeros if not selected."""
        return self.clean.selected_gradient()

    def loss_of(self, late: Leaves) -> tuple[Any, list[Any]]:
        """Loss and aux at other values of the arrays that may move, to be differentiated."""
        if all(x is self.leaves[n] for n, x in zip(self.index, late)):
            return self.clean.forward()
        inputs = self.chain.closed.jaxpr.invars
        values = {**self.clean.values, **{inputs[n]: x for n, x in zip(self.index, late)}}
        for k in range(1, len(self.chain.segments)):
            values.update(self.rungs[k].again(values, self.selected.part, self.clean.values))
        return results(self.chain, values)

    def at(self, moved: Leaves) -> "Walk":
        """The perturbed walk: the arrays that may move are now these."""
        return Walk(self, put(self.leaves, self.index, moved), self.clean)

    def _selected(self, chosen: Chosen) -> Asked:
        """The errors of the arrays that may move."""
        chain, position = self.chain, chosen.position
        first = jnp.min(jnp.where(chosen.selected, position, len(position)))
        places = {p for s in chain.segments for p in (s.start, s.end) if p is not None}
        # By reductions that differ in a constant array, so that XLA for the CPU has one kernel.
        in_front = {p: jnp.any(chosen.selected & (position < p)) for p in places}
        part = Part(first, {p: self._conditionals.visits(x) for p, x in in_front.items()})
        layers = [chosen.of_leaf[n] for n in self.index]
        made = (v for segment in chain.segments[1:] for v in segment.makes)
        inputs = chain.closed.jaxpr.invars
        groups = {**dict.fromkeys(made, UP), **dict(zip((inputs[n] for n in self.index), layers))}
        wanted = dict(zip(layers, one_by_one(chosen.selected, layers)))
        cost = 3 * total_flops(chain.closed.jaxpr)  # forward, and twice that backward
        return Asked(part, groups, wanted, worth_gating(cost, self._conditionals))

    def _all(self) -> Asked:
        """All errors, in the same groups."""
        selected, surely = self.selected, self._conditionals.surely
        part = Part(-surely.astype(jnp.int32), dict.fromkeys(selected.part.reached, surely))
        groups = {**dict.fromkeys(self.chain.moving, REST), **selected.groups}
        return selected._replace(
            part=part, groups=groups, wanted=dict.fromkeys(groups.values(), True)
        )


class Walk:
    """A walk forward, and the ways back from it.

    Args:
      ladder: the segments.
      weights: all arrays.
      before: the clean walk, whose values stand in segments that are not visited; None visits all.
    """

    def __init__(self, ladder: Ladder, weights: Leaves, before: "Walk | None" = None):
        self._ladder, self.weights = ladder, list(weights)
        closed = ladder.chain.closed
        self.values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts))
        self.values.update(zip(closed.jaxpr.invars, weights))
        self._ran: list[Any] = []
        for k in range(len(ladder.chain.segments)):
            rung = ladder.rung(k, self.values)
            if before is None:
                ran = rung.run(self.values)
            elif k == 0:
                ran = before._ran[0]
            else:
                ran = rung.run(self.values, ladder.selected.part, before._ran[k])
            self._ran.append(ran)
            self.values.update(ran.made)

    def forward(self) -> tuple[Any, list[Any]]:
        """Loss and aux."""
        return results(self._ladder.chain, self.values)

    def selected_gradient(self) -> ValueAuxGrad:
        """Loss, aux, and the gradient of the arrays that may move: zeros if not selected."""
        ladder, errors = self._ladder, self._errors(lambda loss, aux: loss)
        for k in range(len(self._ran) - 1, 0, -1):
            _add(errors, ladder.rungs[k].back_where_wanted(self._ran[k], errors, ladder.selected))
        return *self.forward(), self._of_leaves(errors, ladder.index)

    def gradient(self, of: Callable[[Any, list[Any]], Any]) -> ValueAuxGrad:
        """Loss, aux, and the gradient of a function of both; see `PerturbedPass`."""
        ladder, errors = self._ladder, self._errors(of)
        for k in range(len(self._ran) - 1, -1, -1):
            alike = ladder.all if k > 0 else None  # the ascent does not visit the first
            _add(errors, ladder.rungs[k].back(self._ran[k], errors, alike))
        return *self.forward(), self._of_leaves(errors, range(len(self.weights)))

    def _errors(self, of: Callable[[Any, list[Any]], Any]) -> dict[Any, Any]:
        """The gradient of a function of loss and aux with respect to what these depend on."""
        chain = self._ladder.chain
        outvars = chain.closed.jaxpr.outvars
        moving = [
            v for v in dict.fromkeys(filter(jaxprs.is_variable, outvars)) if v in chain.moving
        ]

        def of_moving(values: Sequence[Any]) -> Any:
            return of(*results(chain, {**self.values, **dict(zip(moving, values))}))

        return dict(zip(moving, jax.grad(of_moving)([self.values[v] for v in moving])))

    def _of_leaves(self, errors: dict[Any, Any], index: Sequence[int]) -> list[Any]:
        inputs = self._ladder.chain.closed.jaxpr.invars
        return [error_of(inputs[n], errors) for n in index]


def results(chain: Chain, values: dict[Any, Any]) -> tuple[Any, list[Any]]:
    """Loss and aux of a program, by the values of its variables."""
    outvars = chain.closed.jaxpr.outvars
    loss, *aux = [values[v] if jaxprs.is_variable(v) else jnp.asarray(v.val) for v in outvars]
    return loss, aux


def _add(errors: dict[Any, Any], found: dict[Any, Any]) -> None:
    for v, x in found.items():
        errors[v] = errors[v] + x if v in errors else x
