"""What a step comes to: the parts of a method put together, whoever computes the gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax import arguments
from lsam_jax.arrays.at_once import at_once
from lsam_jax.arrays.vectors import by_row, one_by_one, squared_norm, vdot
from lsam_jax.components.context import Effect, StepContext, Targets
from lsam_jax.engine import auxiliary
from lsam_jax.engine.network import Network
from lsam_jax.engine.step_rules import Chosen, Leaves, PerturbedPass, StepResult, ValueAuxGrad
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.method import Method, choose, numbers
from lsam_jax.transform.state import Outcome, SamState, advance, keep_unless


class MethodStep(NamedTuple):
    """A method's parts at one step: the `StepRules` that the engine takes.

    Attributes:
      method: the parts.
      now: the numbers of the step.
      state: the state before it.
      candidates: bool[L], static.
      selected: bool[L]; static if a NumPy array.
      leaves: the parameters.
      descend: see `StepRules`.
    """

    method: Method
    now: StepContext
    state: SamState
    candidates: np.ndarray
    selected: Any
    leaves: Leaves
    descend: Callable[[Leaves, PerturbedPass], ValueAuxGrad] | None = None

    @property
    def has_clean_pass(self) -> bool:
        """Whether the first pass is at the clean weights."""
        return True

    @property
    def chosen_beforehand(self) -> bool:
        """Whether the layers that move are known before the step is compiled."""
        return isinstance(self.selected, np.ndarray)

    @property
    def descend_unselected(self) -> bool:
        """Whether layers that are not selected descend."""
        return self.method.combination.descend_unselected

    def at(self, index: Sequence[int]) -> Targets:
        """Where the arrays at these places belong."""
        places = [self.now.layers.of_leaf[n] for n in index]
        known = self.chosen_beforehand
        chosen = [True] * len(index) if known else one_by_one(self.selected, places)
        layer = [i if isinstance(i, int) else np.asarray(i) for i in places]
        like = [self.leaves[n] for n in index]
        return Targets(index, list(map(by_row, layer, like)), list(map(by_row, chosen, like)))

    def masked(self, g: Leaves, index: Sequence[int]) -> list[Any]:
        """`g`, with zeros for layers that are not selected."""
        chosen = self.at(index).chosen
        return [x if c is True else jnp.where(c, x, jnp.zeros_like(x)) for x, c in zip(g, chosen)]

    def perturb(self, g: Leaves, w: Leaves, index: Sequence[int]) -> tuple[list[Any], Any]:
        """The weights moved, and the radius, which `finish` wants to know."""
        method, at, memory = self.method, self.at(index), self.state.memory
        radius = method.rho.of(g, at, self.now, memory.radius)
        if method.ascent.rests is not None:
            radius = jnp.where(method.ascent.rests(memory.ascent), 0.0, radius)
        now = self.now._replace(rho=radius)
        return method.perturbation.move(g, w, at, now, memory.perturbation), radius

    @property
    def estimate(self) -> Callable[[Any, Leaves, Sequence[int]], Any] | None:
        """Loss, aux, ascent direction and clean gradient, where it does not climb the gradient."""
        return None if self.method.ascent.estimate is None else self._estimate

    def _estimate(self, loss_of: Any, w: Leaves, index: Sequence[int]) -> Any:
        estimate = self.method.ascent.estimate
        assert estimate is not None
        at, memory = self.at(index), self.state.memory.ascent
        loss, aux, uphill, g = estimate(loss_of, w, at, self.now, memory)
        return loss, aux, self.masked(uphill, index), self.masked(g, index)

    def finish(
        self,
        g: Leaves,
        h: Leaves,
        w: Leaves,
        clean: Any = None,
        perturbed: Any = None,
        radius: Any = None,
    ) -> Outcome:
        """The outcome of a step with both gradients; see `StepRules`."""
        method, memory = self.method, self.state.memory
        now = self.now._replace(rho=radius)
        average = method.axes.average
        index = [n for n, x in enumerate(g) if x is not None]
        at = self.at(index)
        g_in, h_in = [g[n] for n in index], [h[n] for n in index]
        mixed, combination = method.combination.mix(g_in, h_in, at, now, memory.combination)
        descend_unselected = method.combination.descend_unselected
        direction = list(h) if descend_unselected else [jnp.zeros_like(x) for x in self.leaves]
        for n, chosen, d in zip(index, at.chosen, mixed):
            direction[n] = d if chosen is True else jnp.where(chosen, d, direction[n])
        direction, combination = average(direction), average(combination)
        norms = average(now.layers.norms(h))
        if not descend_unselected:
            norms = jnp.where(jnp.asarray(self.selected), norms, self.state.norms)
        observed = method.selector.observe(
            memory.selection, self.selected, average(now.layers.norms(g)), self.candidates
        )
        # So that devices that perturb apart still remember the same.
        g_shared = average(g_in) if jax.tree.leaves(memory.perturbation) else g_in
        new = memory._replace(
            selection=observed,
            ascent=method.ascent.update(memory.ascent, direction, now._replace(at=at)),
            perturbation=method.perturbation.update(memory.perturbation, g_shared, at, now),
            combination=combination,
        )
        moved, weights = [w[n] for n in index], [self.leaves[n] for n in index]
        rise = average(vdot(h_in, moved, weights))
        loss = None if perturbed is None else average(perturbed)
        if clean is not None:
            sharpness = average(perturbed - clean)
        elif method.ascent.estimate is None:
            sharpness = average(vdot(g_in, moved, weights))
        else:
            sharpness = rise
        if not method.descent.is_gradient:
            rise = sharpness
        finite = jnp.isfinite(sharpness)
        if clean is None and loss is not None:  # which the sharpness then does not say
            finite &= jnp.isfinite(loss)
        return Outcome(
            direction,
            norms,
            jnp.asarray(self.selected),
            jnp.asarray(sharpness, jnp.float32),
            average(jnp.max(jnp.asarray(radius, jnp.float32))) if index else self.state.rho,
            jnp.asarray(rise, jnp.float32),
            _effect(loss, rise),
            finite,
            in_types_of(memory, new),
        )

    def plain_step(self, g: Leaves, loss: Any = None) -> Outcome:
        """The outcome of a step that perturbs nothing, with the clean gradient of all arrays."""
        method, now, memory = self.method, self.now, self.state.memory
        average = method.axes.average
        direction = average(list(method.combination.plain_step(g, now, memory.combination)))
        loss = None if loss is None else average(loss)
        new = memory._replace(ascent=method.ascent.update(memory.ascent, direction, now))
        return Outcome(
            direction,
            average(now.layers.norms(g)),
            jnp.zeros_like(self.state.selected),
            self.state.sharpness,
            self.state.rho,
            self.state.rise,
            _effect(loss, 0.0),
            jnp.asarray(True) if loss is None else jnp.isfinite(loss),
            in_types_of(memory, new),
        )

    def starts_plain(self, same_first_pass: bool) -> bool:
        """Whether the step starts with the clean gradient of everything; see `CadencedRules`."""
        method = self.method
        if method.cadence.decide is not None:
            return True
        takes_two_gradients = method.ascent.estimate is None and method.descent.second is None
        return method.cadence.due is not None and same_first_pass and takes_two_gradients

    def due(self) -> Any:
        """Whether the step perturbs; see `CadencedRules`."""
        return None if self.method.cadence.due is None else self.method.cadence.due(self.now.count)

    def decide(self, g: Leaves) -> tuple[jax.Array, Any]:
        """Whether the step, given its clean gradient, perturbs; and the cadence's memory."""
        cadence, memory = self.method.cadence, self.state.memory.cadence
        due = self.due()
        if due is not None:
            return due, memory
        assert cadence.decide is not None
        of_layers = [g[n] for n in self.now.layers.inside]
        square = self.method.axes.average(squared_norm(of_layers))  # so that all devices agree
        return cadence.decide(square, self.now.count, memory)

    def decided(self, out: Outcome, memory: Any) -> Outcome:
        """The outcome with the cadence's memory."""
        return out._replace(memory=out.memory._replace(cadence=memory))

    def next_state(self, out: Outcome) -> SamState:
        """The state after the step."""
        learn = partial(self._learn, out.effect)
        return advance(self.state, self._at_rest(out), self.method.norm_decay, learn)

    def _learn(self, effect: Effect, finite: jax.Array) -> Any:
        """What the radius remembers after the step."""
        rho, before = self.method.rho, self.state.memory.radius

        def learnt(memory: Any) -> Any:
            new = rho.update(memory, effect, self.now)
            return keep_unless(finite, rho.recover(memory), new)

        return at_once(learnt, before) if jax.tree.leaves(before) else before

    def _at_rest(self, out: Outcome) -> Outcome:
        """The outcome, in which a step that perturbs nothing changes none of what is of others."""
        rests, before = self._perturbs_nothing(out), self.state
        if rests is False:
            return out
        return out._replace(
            selected=jnp.where(rests, False, out.selected),
            sharpness=jnp.where(rests, before.sharpness, out.sharpness),
            rho=jnp.where(rests, before.rho, out.rho),
            rise=jnp.where(rests, before.rise, out.rise),
        )

    def _perturbs_nothing(self, out: Outcome) -> Any:
        """Whether the ascent rests, or no layer is selected; a bool, or bool[] if not known."""
        method = self.method
        if self.chosen_beforehand:
            nothing: Any = not np.any(self.selected)
        elif method.selector.score is not None and arguments.static_int(method.k):
            nothing = False
        else:
            nothing = ~jnp.any(out.selected)
        rests = method.ascent.rests
        return nothing if rests is None else rests(self.state.memory.ascent) | nothing

    def descending(
        self,
        loss_fn: Callable[[Any], Any],
        tree: Callable[[Leaves], Any],
        need: Callable[[Leaves], Any],
    ) -> "MethodStep":
        """The same for this loss; `tree` and `need` as in `Descent.second`."""
        second = self.method.descent.second
        if second is None:
            return self
        return self._replace(descend=partial(second, loss_fn, tree, need))

    def handed_back(self, result: StepResult, aux: Any) -> tuple[Any, Any, Any, SamState]:
        """Loss, aux as the loss returned it, direction of descent, new state."""
        method, out = self.method, result.outcome
        aux = auxiliary.opened(aux if method.descent.prepare is None else aux[0])
        direction = self.now.layers.tree(out.direction)
        loss = jnp.asarray(method.axes.average(result.loss))
        return loss, aux, direction, self.next_state(out)


def at_step(
    method: Method, layers: Layers, arrays: Leaves, state: SamState, network: Network
) -> tuple[MethodStep, Chosen]:
    """The method at a step, and the layers that it chooses, cut into leaves for it."""
    candidates, selected, state = choose(method, network, state)
    known = isinstance(selected, np.ndarray)
    # Rows that the program may be cut between, otherwise than by the candidates, are leaves.
    together = method.ascent.fresh is None and (known or network.runs_in_part(candidates))
    layers = layers.cut(candidates) if together else layers.apart()
    chosen = Chosen(layers.of_leaf, network.position, candidates, selected)
    now, leaves = numbers(method, layers, state), layers.leaves_of(arrays)
    return MethodStep(method, now, state, candidates, selected, leaves), chosen


def awake(
    method: Method, layers: Layers, state: SamState, selected: Any, leaves: Leaves
) -> MethodStep:
    """The method as it moves any layers, whether its ascent rests or not."""
    method = method._replace(ascent=method.ascent._replace(rests=None))
    every = np.ones(len(layers.names), bool)
    return MethodStep(method, numbers(method, layers, state), state, every, selected, leaves)


def _effect(loss: Any, rise: Any) -> Effect:
    numbers = [None if x is None else jnp.asarray(x, jnp.zeros(()).dtype) for x in (loss, rise)]
    return Effect(*numbers)


def in_types_of(old: Any, new: Any) -> Any:
    """The new arrays in the types of the old ones."""
    return jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), old, new)
