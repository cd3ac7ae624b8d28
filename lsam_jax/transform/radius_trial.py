"""What radii would do at given weights: a step's perturbation, made for each of them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax import arguments
from lsam_jax.arrays.vectors import vdot
from lsam_jax.components.radius import as_radii
from lsam_jax.components.selector import fewest, wanted
from lsam_jax.engine.cuts import network_of
from lsam_jax.engine.network import in_tree_order
from lsam_jax.engine.traced_loss import trace
from lsam_jax.engine.two_pass import put
from lsam_jax.engine.untraceable import SIGNS, way_out
from lsam_jax.transform.method import Method, choose, layers_of, numbers
from lsam_jax.transform.state import SamState
from lsam_jax.transform.step_rules import MethodStep

Leaves = Sequence[Any]
Losses = Callable[[dict[int, Any]], Sequence[Callable[[Any], Any]]]


def effects_of_radii(
    method: Method,
    losses: Losses,
    params: Any,
    state: SamState,
    arrays: dict[int, Any],
    radii: np.ndarray,
    fresh: bool,
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, bool]:
    """The selected layers, the clean loss, the perturbed losses and their rises; compiled once.

    Args:
      method: the method; its own radius is not used.
      losses: from `arrays` to the loss of the parameters on the batch and, where the ascent has a
        part of its own, on that.
      params: the parameters.
      state: the state of the method.
      arrays: of the batch, whatever `losses` makes of them.
      radii: those to try.
      fresh: whether the norms of the state are to be those of the clean gradient.

    Returns:
      bool[L], a number, f64[N], f64[N] and whether anything moved.
    """
    layers = layers_of(method, params)
    index = [n for n, i in enumerate(layers.of_leaf) if i >= 0]

    def of_leaves(loss: Callable[[Any], Any]) -> Callable[[Leaves], Any]:
        return lambda leaves: loss(layers.tree(list(leaves)))

    def assembled(w: Leaves, state: SamState, selected: Any, rho: Any) -> MethodStep:
        with_rho = method._replace(rho=as_radii("rho", rho))
        every = np.ones(len(layers.names), bool)
        return MethodStep(with_rho, numbers(with_rho, layers, state), state, every, selected, w)

    def before(w: Leaves, state: SamState, arrays: dict[int, Any]) -> Any:
        whole, *of_parts = map(of_leaves, losses(arrays))
        of_part = of_parts[0] if of_parts else whole
        loss, g = jax.value_and_grad(whole)(list(w))
        if fresh:
            state = state._replace(norms=layers.norms(g))
        try:
            program = trace(whole, w, False)
        except SIGNS as error:
            why = f"and this loss cannot be traced before it is differentiated. {way_out(error)}"
            network = in_tree_order(layers, w, why)
        else:
            where = wanted(method.cuts, method.selector)
            least = fewest(method.selector, arguments.static_int(method.k))
            network, _, _ = network_of(program, w, layers, where, least)
        _, selected, state = choose(method, network, state)
        selected, inside = jnp.asarray(selected), [w[n] for n in index]
        rules = assembled(w, state, selected, 0.0)
        if rules.estimate is None:
            up = jax.grad(of_part)(list(w)) if of_parts else g
            uphill = rules.masked([up[n] for n in index], index)
        else:
            _, _, uphill, _ = rules.estimate(
                lambda x: (of_part(put(w, index, x)), []), inside, index
            )
        return loss, uphill, selected, state

    def at(
        rho: Any,
        uphill: Leaves,
        selected: Any,
        w: Leaves,
        state: SamState,
        arrays: dict[int, Any],
    ) -> Any:
        inside, whole = [w[n] for n in index], of_leaves(losses(arrays)[0])
        moved, _ = assembled(w, state, selected, rho).perturb(uphill, inside, index)
        loss, h = jax.value_and_grad(whole)(put(w, index, moved))
        eps = [x - y for x, y in zip(moved, inside)]
        return loss, vdot([h[n] for n in index], eps), sum(jnp.any(x != 0) for x in eps)

    w = [jnp.asarray(x) for x in layers.leaves(params)]
    loss, uphill, selected, state = _compiled(before)(w, state, arrays)
    measure = _compiled(at)
    found = [measure(rho, uphill, selected, w, state, arrays) for rho in radii]
    perturbed, rises, moves = (np.asarray(x, np.float64) for x in zip(*found))
    return np.asarray(selected), float(loss), perturbed, rises, bool(moves.any())


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, unless the loss cannot be traced."""
    jitted = jax.jit(function)

    def call(*args: Any) -> Any:
        try:
            return jitted(*args)
        except SIGNS:
            return function(*args)

    return call
