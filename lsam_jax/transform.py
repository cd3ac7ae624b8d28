"""The optimizer: its state, its Optax face and `value_and_grad`.

Nothing here knows a method by name: a `Recipe` holds the orthogonal choices (which layers, how
far, what to descend), and both faces run the same step.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsam_jax import arguments, selection
from lsam_jax.combination import Combination, where_selected
from lsam_jax.cuts import Cuts, check_cut_names, network_of
from lsam_jax.layers import Layers, LayerSpec, partition
from lsam_jax.perturbation import Perturbation
from lsam_jax.program import trace
from lsam_jax.two_pass import Method, two_pass


class SamState(NamedTuple):
    """State of a SAM transformation over L layers.

    Attributes:
      count: i32[], steps taken.
      norms: f32[L], the gradient norm of each layer, of the last descent gradient (or its running
        mean); the next selection is made from these. Only finite values enter.
      selected: bool[L], the layers that the last step perturbed.
      perturbations: i32[L], how often each layer was perturbed (the paper's Figure 5).
      sharpness: f32[], perturbed minus clean loss of the last step. Where no loss is known
        (`grad_fn`), its first-order estimate, the inner product of gradient and perturbation.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    norms: jax.Array
    selected: jax.Array
    perturbations: jax.Array
    sharpness: jax.Array


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


class SamTransformation(optax.GradientTransformationExtraArgs):
    """An Optax transformation (`init`, `update`) that also carries its `recipe`.

    `update(updates, state, params, *, value_fn=None, grad_fn=None)` takes one of:

    - `value_fn(params) -> loss`: the engine computes both gradients; `updates` is not used (and
      under `jit` XLA does not compute it either).
    - `grad_fn(params) -> gradient`, any gradient function: `updates` is the gradient at `params`
      and serves as the ascent gradient; `grad_fn` is called once, at the perturbed weights, and
      nothing is skipped. `grad_fn` goes first if both are there. It may take a second argument,
      as in `optax.contrib.sam`, and is then given 0.

    Other keyword arguments are accepted and ignored. It returns the direction of descent
    (which the base optimizer, next in the chain, scales and negates) and the new state.
    """

    recipe: Recipe

    def __new__(cls, recipe: Recipe) -> "SamTransformation":
        """Makes the pair of functions for `recipe`."""

        def init(params: Any) -> SamState:
            return _init(recipe, params)

        def update(
            updates: Any,
            state: Any,
            params: Any = None,
            *,
            value_fn: Callable[..., Any] | None = None,
            grad_fn: Callable[..., Any] | None = None,
            **extra_args: Any,
        ) -> tuple[Any, SamState]:
            del extra_args
            if params is None:
                raise ValueError(
                    "params is None, but the perturbation starts from the parameters: call "
                    "update(updates, state, params, value_fn=...)."
                )
            if grad_fn is not None:
                arguments.check_callable("grad_fn", grad_fn, "Pass grad_fn=gradient_of_params.")
                return _step_by_gradient(recipe, updates, state, params, grad_fn)
            if value_fn is None:
                raise ValueError(
                    "Neither value_fn nor grad_fn was given, so the loss at the perturbed weights "
                    "cannot be had. Call update(grads, state, params, value_fn=lambda p: "
                    "loss(p, batch)). Flax's TrainState.apply_gradients does not hand it on: "
                    "call state.tx.update yourself."
                )
            arguments.check_callable("value_fn", value_fn, "Pass value_fn=loss_of_params.")
            _, _, direction, new_state = _step(recipe, value_fn, params, state, has_aux=False)
            return direction, new_state

        self = super().__new__(cls, init, update)
        self.recipe = recipe
        return self


def value_and_grad(
    loss_fn: Callable[..., Any], tx: SamTransformation, has_aux: bool = False
) -> Callable[..., Any]:
    """Like `jax.value_and_grad`, for the direction of descent that `tx` defines.

    Both passes are made, nothing is computed twice. `loss` and `aux` come from the clean pass,
    so metrics and BatchNorm statistics are those of the weights that you have; whatever is
    random is the same in both passes. Call it under `jax.jit`.

    Args:
      loss_fn: `loss_fn(params, *args, **kwargs)`, a real scalar, or `(loss, aux)`.
      tx: what `layerwise_sam` or another method returns (not a chain).
      has_aux: whether `loss_fn` returns `(loss, aux)`.

    Returns:
      A function `(params, sam_state, *args, **kwargs)` that returns `(loss, grads, sam_state)`,
      or `((loss, aux), grads, sam_state)`; `sam_state` starts as `tx.init(params)`.

    Raises:
      TypeError: if `tx` is not a SAM transformation, the loss is not a real scalar, or a
        parameter is not of a real floating type.
      ValueError: if the state belongs to other parameters.

    >>> import jax, jax.numpy as jnp, optax
    >>> import lsam_jax as lsam
    >>> tx, sgd = lsam.layerwise_sam(k=1, rho=0.1), optax.sgd(0.1)
    >>> params = {"w1": jnp.eye(2), "w2": 2 * jnp.eye(2)}
    >>> loss_fn = lambda p, x: jnp.sum((x @ p["w1"] @ p["w2"]) ** 2)
    >>> value_and_grad = jax.jit(lsam.value_and_grad(loss_fn, tx))
    >>> loss, grads, sam_state = value_and_grad(params, tx.init(params), jnp.ones((1, 2)))
    >>> sam_state.selected.tolist()  # at first, the layer nearest the output
    [False, True]
    """
    arguments.check_callable("loss_fn", loss_fn, "Pass the loss itself, not its value.")
    if not isinstance(tx, SamTransformation):
        raise TypeError(
            f"tx must be what layerwise_sam(...) returns; got {type(tx).__name__}. Keep the SAM "
            "transformation apart from the base optimizer: chain nothing to it here."
        )

    def wrapped(params: Any, sam_state: Any, /, *args: Any, **kwargs: Any) -> Any:
        def of_params(params: Any) -> Any:
            return loss_fn(params, *args, **kwargs)

        loss, aux, grads, new_state = _step(tx.recipe, of_params, params, sam_state, has_aux)
        return ((loss, aux) if has_aux else loss), grads, new_state

    return wrapped


def _init(recipe: Recipe, params: Any) -> SamState:
    layers = _layers_of(recipe, params)
    length = len(layers.names)
    return SamState(
        count=jnp.zeros((), jnp.int32),
        norms=jnp.zeros(length, jnp.float32),
        selected=jnp.zeros(length, bool),
        perturbations=jnp.zeros(length, jnp.int32),
        sharpness=jnp.zeros((), jnp.float32),
    )


def _layers_of(recipe: Recipe, params: Any) -> Layers:
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


def _check_state(state: Any, layers: Layers) -> SamState:
    if not isinstance(state, SamState):
        raise TypeError(
            f"state must be the SamState of this transformation; got {type(state).__name__}. "
            "It is tx.init(params), or this transformation's member of a chain's state."
        )
    if jnp.shape(state.norms) != (len(layers.names),):
        raise ValueError(
            f"state holds {jnp.size(state.norms)} layers, but params and layers give "
            f"{len(layers.names)} ({', '.join(layers.names)}): it was made for other parameters. "
            "Make a new one with tx.init(params)."
        )
    return state


def _step(
    recipe: Recipe, loss_fn: Callable[[Any], Any], params: Any, state: Any, has_aux: bool
) -> tuple[Any, Any, Any, SamState]:
    """One step by the engine: clean loss, aux, direction of descent, new state."""
    layers = _layers_of(recipe, params)
    state = _check_state(state, layers)
    leaves, treedef = jax.tree.flatten(params)
    leaves = [jnp.asarray(x) for x in leaves]
    program = trace(loss_fn, jax.tree.unflatten(treedef, leaves), has_aux)
    network, choose_cuts = network_of(program, leaves, layers)
    candidates, selected = _choose(recipe, network, state)
    rho, alpha = _numbers(recipe, state)

    def finish(g: Sequence[Any], h: Sequence[Any]) -> tuple[list[Any], jax.Array]:
        return _combine(recipe, layers, g, h, alpha, selected), layers.norms(h)

    passes = two_pass(
        program,
        leaves,
        layers.of_leaf,
        network.position,
        candidates,
        selected,
        lambda: choose_cuts(recipe.cuts, candidates, arguments.static_int(recipe.k)),
        recipe.gate,
        Method(lambda g, w, group: recipe.perturb(g, w, group, rho), finish),
    )
    direction, norms = passes.result
    sharpness = passes.perturbed_loss - passes.loss
    ok = jnp.isfinite(passes.loss) & jnp.isfinite(passes.perturbed_loss)
    new_state = _advance(recipe, state, selected, norms, sharpness, ok)
    aux = program.aux.unflatten(passes.aux)
    return passes.loss, aux, jax.tree.unflatten(treedef, direction), new_state


def _step_by_gradient(
    recipe: Recipe, updates: Any, state: Any, params: Any, grad_fn: Callable[..., Any]
) -> tuple[Any, SamState]:
    """One step from a gradient function: direction of descent, new state."""
    layers = _layers_of(recipe, params)
    state = _check_state(state, layers)
    leaves, treedef = jax.tree.flatten(params)
    network = selection.in_tree_order(layers.names)
    _, selected = _choose(recipe, network, state)
    rho, alpha = _numbers(recipe, state)
    where = [selected[i] if i >= 0 else None for i in layers.of_leaf]
    g = [
        None if s is None else jnp.where(s, d, jnp.zeros_like(d))
        for s, d in zip(where, _leaves_like(updates, treedef, "updates"))
    ]
    inside = [n for n, d in enumerate(g) if d is not None]
    group = [layers.of_leaf[n] for n in inside]
    moved = list(leaves)
    for n, w in zip(
        inside, recipe.perturb([g[n] for n in inside], [leaves[n] for n in inside], group, rho)
    ):
        moved[n] = w
    extra = () if _takes_one_argument(grad_fn) else (0,)
    h = _leaves_like(
        grad_fn(jax.tree.unflatten(treedef, moved), *extra), treedef, "the result of grad_fn"
    )
    direction = _combine(recipe, layers, g, h, alpha, selected)
    sharpness = sum((jnp.sum(g[n] * (moved[n] - leaves[n])) for n in inside), jnp.zeros(()))
    norms = layers.norms(h)
    new_state = _advance(recipe, state, selected, norms, sharpness, jnp.isfinite(sharpness))
    return jax.tree.unflatten(treedef, direction), new_state


def _choose(
    recipe: Recipe, network: selection.Network, state: SamState
) -> tuple[np.ndarray, np.ndarray | jax.Array]:
    k = recipe.k
    if callable(k):
        k = k(state.count)
    static_k = None if recipe.k is None else arguments.static_int(recipe.k)
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
    return [
        b if a is None else where_selected(recipe.combine, a, b, alpha, selected[i])
        for i, a, b in zip(layers.of_leaf, g, h)
    ]


def _advance(
    recipe: Recipe, state: SamState, selected: Any, norms: Any, sharpness: Any, ok: Any
) -> SamState:
    decay = recipe.norm_decay
    mean = jnp.where(jnp.any(state.norms > 0), decay * state.norms + (1 - decay) * norms, norms)
    ok = ok & jnp.all(jnp.isfinite(norms))
    selected = jnp.asarray(selected)
    return SamState(
        count=optax.safe_increment(state.count),
        norms=jnp.where(ok, mean, state.norms).astype(jnp.float32),
        selected=selected,
        perturbations=state.perturbations + selected,
        sharpness=jnp.asarray(sharpness, jnp.float32),
    )


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
