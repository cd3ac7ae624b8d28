"""One step: choose layers, compute both gradients, combine them, advance the state.

Nothing here knows a method by name: a `Recipe` holds the orthogonal choices (which layers, how
far, what to descend).
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax import arguments, selection
from lsam_jax.combination import Combination, where_selected
from lsam_jax.cuts import Cuts, check_cut_names, network_of
from lsam_jax.layers import Layers, LayerSpec, partition
from lsam_jax.perturbation import Perturbation
from lsam_jax.program import trace
from lsam_jax.state import SamState, advance, check_state
from lsam_jax.two_pass import Method, two_pass


class Recipe(NamedTuple):
    """The orthogonal choices that make a method; see `lsam_jax.methods`.

    Attributes:
      layers: how the parameters are cut into layers.
      selector: which layers are perturbed.
      k: how many; None if the selector needs no number.
      perturb: how far they move.
      rho: the radius.
      combine: what is descended.
      alpha: the weight of the perturbed gradient in it.
      norm_decay: of the running mean of the stored norms; 0 stores the last one.
      select_every: steps between selections.
      cuts: where the engine may cut.
      gate: whether it skips weight gradients by conditionals.
    """

    layers: LayerSpec
    selector: selection.Selector
    k: Any
    perturb: Perturbation
    rho: arguments.Scalar
    combine: Combination
    alpha: arguments.Scalar
    norm_decay: Any
    select_every: Any
    cuts: Cuts
    gate: bool


def layers_of(recipe: Recipe, params: Any) -> Layers:
    """Cuts `params` into layers, and checks that the recipe fits them."""
    layers = partition(params, recipe.layers)
    recipe.selector.check(layers.names)
    check_cut_names(recipe.cuts, layers.names)
    k = recipe.k
    if k is not None and arguments.is_concrete(k) and int(k) > len(layers.names):
        raise ValueError(
            f"k={int(k)} is more than the {len(layers.names)} layers that there are "
            f"({', '.join(layers.names)}); k must be at most {len(layers.names)}."
        )
    return layers


def step(
    recipe: Recipe, loss_fn: Callable[[Any], Any], params: Any, state: Any, has_aux: bool
) -> tuple[Any, Any, Any, SamState]:
    """One step by the engine: clean loss, aux, direction of descent, new state."""
    layers = layers_of(recipe, params)
    state = check_state(state, layers)
    leaves, treedef = jax.tree.flatten(params)
    leaves = [jnp.asarray(x) for x in leaves]
    program = trace(loss_fn, jax.tree.unflatten(treedef, leaves), has_aux)
    network, place_cuts, _ = network_of(program, leaves, layers)
    candidates, selected = _choose(recipe, network, state)
    rho, alpha = _numbers(recipe, state)
    where = 1 if recipe.cuts == "auto" and recipe.selector.one_cut else recipe.cuts

    def finish(g: Sequence[Any], h: Sequence[Any]) -> tuple[list[Any], jax.Array]:
        return _combine(recipe, layers, g, h, alpha, selected), layers.norms(h)

    passes = two_pass(
        program,
        leaves,
        layers.of_leaf,
        network.position,
        candidates,
        selected,
        lambda: place_cuts(where, candidates, arguments.static_int(recipe.k)),
        recipe.gate,
        Method(lambda g, w, group: recipe.perturb(g, w, group, rho), finish),
    )
    direction, norms = passes.result
    sharpness = passes.perturbed_loss - passes.loss
    new_state = advance(
        state,
        selected=selected,
        norms=norms,
        decay=recipe.norm_decay,
        sharpness=sharpness,
        finite=jnp.isfinite(sharpness),
    )
    aux = program.aux.unflatten(passes.aux)
    return passes.loss, aux, jax.tree.unflatten(treedef, direction), new_state


def step_by_gradient(
    recipe: Recipe, updates: Any, state: Any, params: Any, grad_fn: Callable[..., Any]
) -> tuple[Any, SamState]:
    """One step from a gradient function: direction of descent, new state."""
    layers = layers_of(recipe, params)
    state = check_state(state, layers)
    leaves, treedef = jax.tree.flatten(params)
    network = selection.in_tree_order(layers.names)
    _, selected = _choose(recipe, network, state)
    rho, alpha = _numbers(recipe, state)
    # As the engine does: None for an array that cannot move, zeros for one that does not.
    known = isinstance(selected, np.ndarray)
    moves = [i >= 0 and (not known or bool(selected[i])) for i in layers.of_leaf]
    g = [
        jnp.where(selected[i], d, jnp.zeros_like(d)) if may else None
        for may, i, d in zip(moves, layers.of_leaf, _leaves_like(updates, treedef, "updates"))
    ]
    inside = [n for n, may in enumerate(moves) if may]
    group = [layers.of_leaf[n] for n in inside]
    ahead = recipe.perturb([g[n] for n in inside], [leaves[n] for n in inside], group, rho)
    moved = list(leaves)
    for n, w in zip(inside, ahead):
        moved[n] = w
    extra = () if _takes_one_argument(grad_fn) else (0,)
    at_moved = grad_fn(jax.tree.unflatten(treedef, moved), *extra)
    h = _leaves_like(at_moved, treedef, "the result of grad_fn")
    direction = _combine(recipe, layers, g, h, alpha, selected)
    sharpness = sum((jnp.sum(g[n] * (moved[n] - leaves[n])) for n in inside), jnp.zeros(()))
    new_state = advance(
        state,
        selected=selected,
        norms=layers.norms(h),
        decay=recipe.norm_decay,
        sharpness=sharpness,
        finite=jnp.isfinite(sharpness),
    )
    return jax.tree.unflatten(treedef, direction), new_state


def _choose(
    recipe: Recipe, network: selection.Network, state: SamState
) -> tuple[np.ndarray, np.ndarray | jax.Array]:
    k = arguments.resolve(recipe.k, state.count)
    static_k = arguments.static_int(recipe.k)
    candidates, selected = selection.select(
        recipe.selector, network, state.norms, k, static_k, state.count
    )
    if not isinstance(selected, np.ndarray):
        anew = state.count % recipe.select_every == 0
        selected = jnp.where(anew, selected, state.selected)
    return candidates, selected


def _numbers(recipe: Recipe, state: SamState) -> tuple[Any, Any]:
    rho = arguments.resolve(recipe.rho, state.count)
    alpha = arguments.resolve(recipe.alpha, state.count)
    return rho, alpha


def _combine(
    recipe: Recipe, layers: Layers, g: Sequence[Any], h: Sequence[Any], alpha: Any, selected: Any
) -> list[Any]:
    known = isinstance(selected, np.ndarray)
    return [
        b if a is None else where_selected(recipe.combine, a, b, alpha, known or selected[i])
        for i, a, b in zip(layers.of_leaf, g, h)
    ]


def _leaves_like(tree: Any, treedef: Any, what: str) -> list[Any]:
    leaves, found = jax.tree.flatten(tree)
    if found != treedef:
        raise ValueError(f"{what} must be a pytree like params: {treedef}; got {found}.")
    return leaves


def _takes_one_argument(fun: Callable[..., Any]) -> bool:
    try:
        inspect.signature(fun).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
