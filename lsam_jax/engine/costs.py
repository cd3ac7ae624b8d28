"""Counted cost of a step at each cut, relative to a plain gradient."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.devices import collectives
from lsam_jax.engine import effects, jaxprs, scan_plans, scans
from lsam_jax.engine.flops import flops, total_flops
from lsam_jax.engine.traced_loss import TracedLoss


class Profile(NamedTuple):
    """What a step costs in addition to a plain gradient; all relative to that gradient.

    Every array is f64[L], in the order of the network: entry p is for the layer at position p.

    Attributes:
      first: extra cost if only this layer is perturbed.
      full: extra cost if this layer and all behind it are perturbed.
      again: of the forward pass from this layer on.
      spent: f64[M], the cost of the backward pass in M parts.
      serving: bool[M, L], which layers' gradients need each part.
      forward: the cost of a forward pass.
      plain: operations of a plain gradient, which all others are relative to.
    """

    first: np.ndarray
    full: np.ndarray
    again: np.ndarray
    spent: np.ndarray
    serving: np.ndarray
    forward: float
    plain: float

    def of(self, selected: np.ndarray, cut: int) -> float:
        """Extra cost of a step that perturbs some layers behind a cut, with gates.

        Args:
          selected: bool[L], by position.
          cut: the position of the cut, at or before the first selected layer.
        """
        if not selected.any():
            return 0.0
        anyway = self.serving[:, cut:].sum(axis=1) > 1  # no gate can skip it
        needed = (self.serving & selected).any(axis=1)
        return float(self.again[cut] + self.spent[anyway | needed].sum())

    def at(self, cuts: Sequence[int]) -> Callable[[Any], Any]:
        """`of` at the last of these cuts (ascending) in front of the first selected layer.

        Returns:
          A function from bool[L], by position, to a number; both may be traced.
        """
        anyway = np.stack([self.serving[:, cut:].sum(axis=1) > 1 for cut in cuts])
        return self._at(cuts, anyway)

    def ungated(self, cuts: Sequence[int], candidates: np.ndarray) -> Callable[[Any], Any]:
        """The same without gates: the gradients of all candidates behind a cut are computed.

        Args:
          cuts: as for `at`.
          candidates: bool[L], by position.
        """
        behind = np.arange(len(candidates)) >= np.asarray(cuts)[:, None]
        anyway = np.stack([(self.serving & (candidates & late)).any(axis=1) for late in behind])
        return self._at(cuts, anyway)

    def _at(self, cuts: Sequence[int], anyway: np.ndarray) -> Callable[[Any], Any]:
        again = self.again[list(cuts)]

        def cost(selected: Any) -> Any:
            xp: Any = np if isinstance(selected, np.ndarray) else jnp
            needed = (self.serving & selected).any(axis=1)
            behind = xp.searchsorted(xp.asarray(cuts), xp.argmax(selected), side="right")
            cut = xp.maximum(behind - 1, 0)
            spent = xp.where(xp.asarray(anyway)[cut] | needed, self.spent, 0).sum()
            extra = xp.asarray(again)[cut] + spent
            return xp.where(selected.any(), extra, xp.zeros_like(extra))

        return cost


def profile(
    program: TracedLoss, leaves: Sequence[Any], of_leaf: Sequence[int], position: np.ndarray
) -> Profile:
    """Counts the cost of a step at each layer, on the jaxpr of the whole gradient."""
    opened = program._replace(closed=scans.split(program.closed, leaves, scan_plans.unrolled))

    def gradient(leaves: Sequence[Any], cotangent: Any) -> Any:
        loss, pullback = jax.vjp(lambda leaves: opened.run(leaves)[0], leaves)
        return loss, pullback(cotangent)[0]

    args = (list(leaves), collectives.zeros_like_type(opened.closed.out_avals[0]))
    closed = jax.make_jaxpr(gradient)(*args)
    if any(eqn.primitive.name in jaxprs.CHECKPOINT_NAMES for eqn in closed.jaxpr.eqns):
        # Opened only now, so that what a checkpoint computes again is counted.
        closed = jaxprs.rewrite(closed, jax.tree.leaves(args), jaxprs.open_all)
    jaxpr = closed.jaxpr
    forward, backward = effects.split(jaxpr.eqns, jaxpr.invars[-1:])
    layers = len(position)
    place = [int(position[i]) if i >= 0 else -1 for i in of_leaf]

    again = _again(forward, dict(zip(jaxpr.invars, place)), layers)
    # A backward equation serves the layers whose gradient is made from its results; bit p is the
    # layer at position p.
    serves: dict[Any, int] = {}
    for v, p in zip(jaxpr.outvars[1:], place):
        if p >= 0 and jaxprs.is_variable(v):
            serves[v] = serves.get(v, 0) | 1 << p
    spent: dict[int, float] = {}  # by which layers it serves
    for eqn in reversed(backward):
        served = 0
        for v in eqn.outvars:
            served |= serves.get(v, 0)
        if served:
            spent[served] = spent.get(served, 0.0) + flops(eqn)
            for v in filter(jaxprs.is_variable, eqn.invars):
                serves[v] = serves.get(v, 0) | served
    first, full = again.copy(), again.copy()
    serving = np.zeros((len(spent), layers), bool)
    for row, (served, cost) in zip(serving, spent.items()):
        row[:] = [served >> p & 1 for p in range(layers)]
        places = np.flatnonzero(row)
        first[places] += cost
        full[: places[-1] + 1] += cost  # of the layers from p on, it serves at least one
    plain = total_flops(jaxpr)
    parts = np.array(list(spent.values())) / plain
    ahead = sum(map(flops, forward)) / plain
    counted = (first / plain, full / plain, again / plain, parts, serving)
    return Profile(*counted, ahead, plain)


def at_cuts(
    program: TracedLoss, leaves: Sequence[Any], of_leaf: Sequence[int], position: np.ndarray
) -> np.ndarray:
    """About what a cut in front of each layer costs in addition to a plain gradient: f64[L].

    From the forward pass alone, which is there: what stands behind the cut runs forward and
    propagates errors, at twice its cost, where a plain gradient takes thrice that of everything.
    """
    opened = jaxprs.rewrite(program.closed, leaves, jaxprs.open_all)
    jaxpr = scans.split(opened, leaves, scan_plans.by_layer).jaxpr
    place = {v: int(position[i]) for v, i in zip(jaxpr.invars, of_leaf) if i >= 0}
    again = _again(jaxpr.eqns, place, len(position))
    return 2 * again / max(3 * total_flops(jaxpr), 1)


def _again(eqns: Sequence[Any], place: dict[Any, int], layers: int) -> np.ndarray:
    """Operations of the equations that depend on a layer at each position, or on one behind it."""
    latest = {v: p for v, p in place.items() if p >= 0}
    again = np.zeros(layers + 1)
    for eqn in eqns:
        p = max((latest.get(v, -1) for v in eqn.invars if jaxprs.is_variable(v)), default=-1)
        if p >= 0:
            again[p] += flops(eqn)
            latest.update((v, p) for v in eqn.outvars)
    return np.cumsum(again[::-1])[::-1][:layers]


def apart(descent: Profile, ascent: Profile) -> Profile:
    """What a step costs in addition to a plain gradient of one loss, if another one is climbed.

    Nothing is shared: the forward pass of the ascent runs whole, its backward pass to the first
    perturbed layer.
    """
    share = ascent.plain / descent.plain
    behind = (x - ascent.again for x in (ascent.first, ascent.full))
    first, full = (share * (ascent.forward + x) for x in behind)
    forward = np.full_like(ascent.again, share * ascent.forward)
    return descent._replace(
        first=first,
        full=full,
        again=forward,
        spent=share * ascent.spent,
        serving=ascent.serving,
    )
