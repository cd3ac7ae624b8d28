"""What radii would do at given weights: a step's perturbation, made for each of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays.vectors import vdot
from lsam_jax.components.radius import as_radii
from lsam_jax.engine.network import Network, in_tree_order
from lsam_jax.engine.traced_loss import trace
from lsam_jax.engine.two_pass import put
from lsam_jax.engine.untraceable import SIGNS, way_out
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.method import Method, choose
from lsam_jax.transform.state import SamState
from lsam_jax.transform.step import network_at
from lsam_jax.transform.step_rules import MethodStep, awake

Leaves = Sequence[Any]
LossOfParams = Callable[[Any], Any]


class Effects(NamedTuple):
    """What N radii do to the loss of a batch.

    Attributes:
      selected: bool[L], the layers that are perturbed.
      loss: the clean loss.
      losses: f64[N], at the perturbed weights.
      rises: f64[N], see `SamState`.
      moved: whether anything did.
    """

    selected: np.ndarray
    loss: float
    losses: np.ndarray
    rises: np.ndarray
    moved: bool


class RadiusTrial(NamedTuple):
    """A method on a batch, whose own radius is not used.

    Attributes:
      method: the method.
      layers: how the parameters are cut.
      losses: from the arrays of the batch, whatever it makes of them, to the loss of the parameters
        on the batch, and on the part that the ascent has of its own (or the same again).
      fresh: whether the norms of the state are to be those of the clean gradient.
    """

    method: Method
    layers: Layers
    losses: Callable[[Any], tuple[LossOfParams, LossOfParams]]
    fresh: bool

    def effects(self, params: Any, state: SamState, batch: Any, radii: np.ndarray) -> Effects:
        """What each of these radii does; compiled once."""
        w = [jnp.asarray(x) for x in self.layers.leaves(params)]
        loss, uphill, selected, state = _compiled(self._before)(w, state, batch)
        measure = _compiled(self._at)
        found = [measure(rho, (uphill, selected), w, state, batch) for rho in radii]
        losses, rises, moves = (np.asarray(x, np.float64) for x in zip(*found))
        return Effects(np.asarray(selected), float(loss), losses, rises, bool(moves.any()))

    def _before(self, w: Leaves, state: SamState, batch: Any) -> Any:
        """The clean loss, the ascent direction, the selected layers, and the state."""
        layers, index = self.layers, self.layers.inside
        losses = self.losses(batch)
        whole, of_part = map(self._of_leaves, losses)
        loss, g = jax.value_and_grad(whole)(list(w))
        if self.fresh:
            state = state._replace(norms=layers.norms(g))
        _, selected, state = choose(self.method, self._network(whole, w), state)
        selected = jnp.asarray(selected)
        rules = self._rules(w, state, selected, 0.0)
        if rules.estimate is None:
            up = g if losses[0] is losses[1] else jax.grad(of_part)(list(w))
            return loss, rules.masked([up[n] for n in index], index), selected, state
        _, _, uphill, _ = rules.estimate(
            lambda x: (of_part(put(w, index, x)), []), [w[n] for n in index], index
        )
        return loss, uphill, selected, state

    def _at(self, rho: Any, climbed: Any, w: Leaves, state: SamState, batch: Any) -> Any:
        """The loss, its rise, and how many arrays move, of a radius and what `_before` found."""
        (uphill, selected), index = climbed, self.layers.inside
        inside, whole = [w[n] for n in index], self._of_leaves(self.losses(batch)[0])
        moved, _ = self._rules(w, state, selected, rho).perturb(uphill, inside, index)
        loss, h = jax.value_and_grad(whole)(put(w, index, moved))
        eps = [x - y for x, y in zip(moved, inside)]
        return loss, vdot([h[n] for n in index], eps), sum(jnp.any(x != 0) for x in eps)

    def _of_leaves(self, loss: LossOfParams) -> Callable[[Leaves], Any]:
        return lambda leaves: loss(self.layers.tree(list(leaves)))

    def _network(self, loss: Callable[[Leaves], Any], w: Leaves) -> Network:
        try:
            arrays = self.layers.arrays(w)
            program = trace(lambda x: loss(self.layers.leaves_of(x)), arrays, False)
        except SIGNS as error:
            why = f"and this loss cannot be traced before it is differentiated. {way_out(error)}"
            return in_tree_order(self.layers, w, why)
        return network_at(self.method, self.layers, arrays, program)[0]

    def _rules(self, w: Leaves, state: SamState, selected: Any, rho: Any) -> MethodStep:
        method = self.method._replace(rho=as_radii("rho", rho))
        return awake(method, self.layers, state, selected, w)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, unless the loss cannot be traced."""
    jitted = jax.jit(function)

    def call(*args: Any) -> Any:
        try:
            return jitted(*args)
        except SIGNS:
            return function(*args)

    return call
