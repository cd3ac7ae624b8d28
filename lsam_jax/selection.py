"""Which layers a step perturbs.

A selector knows, before the step is compiled, which layers it could ever choose (its
candidates), and gives each layer a score at run time; the k candidates of highest score are
perturbed, ties going to the layer nearest the output. One without scores takes all candidates:
its choice is static, and the engine compiles nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arguments import check_real, resolve
from lsam_jax.layers import Layers
from lsam_jax.parts import remember_nothing


class Network(NamedTuple):
    """What is known of the layers before a step is compiled.

    Attributes:
      names: the L names.
      position: i64[L], the place of each layer between input (0) and output (L - 1).
      reached: bool[L], whether the loss depends on the layer at all.
      price: gives f64[L]: the extra cost of a step, relative to a plain gradient, if this layer
        and all nearer the output are perturbed.
      first: the same, if this layer alone is perturbed.
    """

    names: tuple[str, ...]
    position: np.ndarray
    reached: np.ndarray
    price: Callable[[], np.ndarray]
    first: Callable[[], np.ndarray]


class Selector(NamedTuple):
    """A pair of pure functions (and a check) that choose layers.

    Attributes:
      candidates: from what is known of the network to bool[L], static: the layers that can ever be
        chosen. Known are, in the order of `layer_names`: `names`; `position`, i64[L], the place
        between input (0) and output (L - 1); `reached`, bool[L], whether the loss depends on it;
        `price()`, f64[L], the extra cost, relative to a plain gradient, of perturbing the layer
        and all nearer the output; `first()`, that of perturbing it alone.
      score: from the stored norms f32[L] and the step count to f32[L]; None takes every candidate.
      check: raises if the selector does not fit layers of these names.
      one_cut: whether the candidates are so near each other that "auto" is one cut.
      draw: from the step count, the memory and the candidates to bool[L]: for a selector that
        chooses by itself, instead of by scores and k.
      init: makes its memory from the layers and the leaves of the parameters.
      observe: the memory after a step, from `(memory, selected, norms, candidates)`, norms being
        those of the ascent gradient, f32[L].

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"a": jnp.ones(1), "b": 2 * jnp.ones(1)}
    >>> first = lsam.Selector(candidates=lambda network: network.position == 0)
    >>> tx = lsam.layerwise_sam(k=None, rho=0.1, selection=first, layers="array")
    >>> loss_fn = lambda p: jnp.sum((p["a"] * 3.0 + p["b"]) ** 2)
    >>> loss, grads, sam_state = lsam.value_and_grad(loss_fn, tx)(params, tx.init(params))
    >>> sam_state.selected.tolist()  # the layer that the loss uses first
    [True, False]
    """

    candidates: Callable[[Network], np.ndarray]
    score: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    check: Callable[[tuple[str, ...]], None] = lambda names: None
    one_cut: bool = False
    draw: Callable[[jax.Array, Any, np.ndarray], jax.Array] | None = None
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    observe: Callable[[Any, Any, jax.Array, np.ndarray], Any] = lambda memory, *_: memory


def high() -> Selector:
    """The k layers of largest stored gradient norm (the paper, Algorithm 1, line 4).

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, selection=lsam.high(), layers="array")
    >>> state = tx.init(w)._replace(norms=jnp.asarray([1.0, 2.0]))
    >>> tx.update(w, state, w, grad_fn=lambda w: w)[1].selected.tolist()
    [False, True]
    """
    return Selector(_all_layers, lambda norms, count: norms)


def low() -> Selector:
    """The k layers of smallest stored gradient norm (the paper, Table 3).

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, selection=lsam.low(), layers="array")
    >>> state = tx.init(w)._replace(norms=jnp.asarray([1.0, 2.0]))
    >>> tx.update(w, state, w, grad_fn=lambda w: w)[1].selected.tolist()
    [True, False]
    """
    return Selector(_all_layers, lambda norms, count: -norms)


def random(seed: int = 0) -> Selector:
    """Draws k layers uniformly, anew each step (the paper, Table 3).

    Args:
      seed: the draws are a function of it and of `state.count` only, so all devices agree.

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, selection=lsam.random(seed=1), layers="array")
    >>> int(tx.update(w, tx.init(w), w, grad_fn=lambda w: w)[1].selected.sum())  # k
    1
    """

    def score(norms: jax.Array, count: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), count), norms.shape)

    return Selector(_all_layers, score)


def independent(probability: Any, seed: int = 0) -> Selector:
    """Draws each layer with a probability of its own, independently and anew each step (ESAM).

    Args:
      probability: of every layer; from 0 to 1, or a schedule.
      seed: as for `random`.

    Raises:
      ValueError, TypeError: if the probability is out of its range.

    >>> import jax.numpy as jnp, lsam_jax as lsam, optax
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> draws = lsam.independent(optax.linear_schedule(1.0, 0.0, transition_steps=1))
    >>> tx = lsam.layerwise_sam(None, rho=0.1, selection=draws, layers="array")
    >>> state = tx.init(w)
    >>> for _ in range(2):  # with probability 1, then 0
    ...     direction, state = tx.update(w, state, w, grad_fn=lambda w: w)
    ...     print(state.selected.tolist())
    [True, True]
    [False, False]
    """
    check_real("probability", probability, low=0.0, most=1.0)

    def draw(count: jax.Array, memory: Any, candidates: np.ndarray) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), count)
        p = resolve(probability, count)
        return (jax.random.uniform(key, candidates.shape) < p) & candidates

    return Selector(_all_layers, draw=draw)


def everything() -> Selector:
    """All layers: generalized SAM (with alpha = 1 and normalize = True: SAM).

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(None, rho=0.1, selection=lsam.everything(), layers="array")
    >>> tx.update(w, tx.init(w), w, grad_fn=lambda w: w)[1].selected.tolist()
    [True, True]
    """
    return Selector(_all_layers)


def nothing() -> Selector:
    """No layer: the base optimizer.

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(None, rho=0.1, selection=lsam.nothing(), layers="array")
    >>> tx.update(w, tx.init(w), w, grad_fn=lambda w: w)[1].selected.tolist()
    [False, False]
    """
    return Selector(lambda network: np.zeros(len(network.names), bool))


def fixed(names: Sequence[str]) -> Selector:
    """Always the layers of these names; the same as the list itself as `selection`.

    Args:
      names: of layers, as `layer_names` gives them.

    Raises:
      TypeError: if `names` is not a list of str.
      ValueError: when first used, if a name is not a layer; the message lists the layers.

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(None, rho=0.1, selection=lsam.fixed(["b"]), layers="array")
    >>> tx.update(w, tx.init(w), w, grad_fn=lambda w: w)[1].selected.tolist()
    [False, True]
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"fixed takes a list of layer names; got names={names!r}.")
    wanted = tuple(names)

    def check(known: tuple[str, ...]) -> None:
        for name in wanted:
            if name not in known:
                raise ValueError(
                    f"selection names the layer {name!r}, which does not exist. "
                    f"The layers are: {', '.join(known)}."
                )

    def candidates(network: Network) -> np.ndarray:
        return np.asarray([name in wanted for name in network.names])

    return Selector(candidates, check=check)


def as_selector(selection: Any) -> Selector:
    """Turns what the user may write as `selection` into a selector."""
    if isinstance(selection, Selector):
        return selection
    named = {"high": high, "low": low, "random": random, "all": everything, "none": nothing}
    if isinstance(selection, str):
        if selection not in named:
            options = ", ".join(f'"{name}"' for name in named)
            raise ValueError(
                f"selection must be one of {options}, a list of layer names, or a selector such "
                f"as lsam_jax.budget(0.1); got selection={selection!r}."
            )
        return named[selection]()
    if isinstance(selection, list | tuple):
        return fixed(selection)
    raise TypeError(
        f"selection must be a str, a list of layer names or a selector; got {selection!r}."
    )


def select(
    selector: Selector,
    network: Network,
    norms: jax.Array,
    k: Any,
    static_k: int | None,
    count: jax.Array,
    memory: Any = (),
) -> tuple[np.ndarray, np.ndarray | jax.Array]:
    """Chooses the layers of one step.

    Returns:
      The candidates, bool[L], static; and the chosen layers, bool[L]: a NumPy array if they are
      known before the step is compiled, else a traced one.
    """
    candidates = selector.candidates(network)
    if selector.draw is not None:
        return candidates, selector.draw(count, memory, candidates)
    if selector.score is None or (static_k is not None and static_k >= candidates.sum()):
        return candidates, candidates
    if static_k == 0:
        nothing_chosen = np.zeros_like(candidates)
        return nothing_chosen, nothing_chosen
    # Nearest the output first, layers that the loss does not reach last: a stable sort by score
    # then settles ties as it should.
    preferred = np.lexsort((-network.position, ~network.reached, ~candidates))
    score = jnp.where(candidates, selector.score(norms, count), -jnp.inf)
    by_score = jnp.asarray(preferred)[jnp.argsort(-score[preferred], stable=True)]
    places = jnp.arange(len(candidates), dtype=jnp.int32)
    rank = jnp.zeros_like(places).at[by_score].set(places)
    return candidates, (rank < jnp.asarray(k).astype(jnp.int32)) & candidates


def _all_layers(network: Network) -> np.ndarray:
    return np.ones(len(network.names), bool)


def in_tree_order(names: tuple[str, ...]) -> Network:
    """The network as far as it is known without a loss: in the order of the pytree."""

    def price() -> np.ndarray:
        raise ValueError(
            "budget needs the loss to count what a layer costs: pass value_fn, not grad_fn."
        )

    return Network(names, np.arange(len(names)), np.ones(len(names), bool), price, price)
