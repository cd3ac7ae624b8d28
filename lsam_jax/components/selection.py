"""The selections: the layers of largest or smallest norm, drawn ones, all, none, or by name."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lsam_jax.arguments import check_layer_names, check_real, resolve
from lsam_jax.arrays.draws import check_seed, key_for
from lsam_jax.components.selector import Selector, all_layers
from lsam_jax.engine.network import Network


def high() -> Selector:
    """The k layers of largest stored gradient norm (the paper, Algorithm 1, line 4).

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, selection=lsam.high(), layers="array")
    >>> state = tx.init(w)._replace(norms=jnp.asarray([1.0, 2.0]))
    >>> tx.update(w, state, w, grad_fn=lambda w: w)[1].selected.tolist()
    [False, True]
    """
    return Selector(all_layers, lambda norms, count: norms)


def low() -> Selector:
    """The k layers of smallest stored gradient norm (the paper, Table 3).

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, selection=lsam.low(), layers="array")
    >>> state = tx.init(w)._replace(norms=jnp.asarray([1.0, 2.0]))
    >>> tx.update(w, state, w, grad_fn=lambda w: w)[1].selected.tolist()
    [True, False]
    """
    return Selector(all_layers, lambda norms, count: -norms)


def random(seed: int = 0) -> Selector:
    """Draws k layers uniformly, anew each step (the paper, Table 3).

    Args:
      seed: the draws are a function of it and of `state.count` only, so all devices agree.

    Raises:
      TypeError, ValueError: unless the seed is a whole number of 32 bits, or a key made by
        `jax.random.key`.

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, selection=lsam.random(seed=1), layers="array")
    >>> int(tx.update(w, tx.init(w), w, grad_fn=lambda w: w)[1].selected.sum())  # k
    1
    """
    check_seed(seed)

    def score(norms: jax.Array, count: jax.Array) -> jax.Array:
        return jax.random.uniform(key_for("random", seed, count), norms.shape)

    return Selector(all_layers, score)


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
    check_seed(seed)

    def draw(count: jax.Array, memory: Any, candidates: np.ndarray) -> jax.Array:
        p = resolve(probability, count)
        luck = jax.random.uniform(key_for("independent", seed, count), candidates.shape)
        return (luck < p) & candidates

    return Selector(all_layers, draw=draw)


def everything() -> Selector:
    """All layers: generalized SAM (with alpha = 1 and normalize = True: SAM).

    >>> import jax.numpy as jnp, lsam_jax as lsam
    >>> w = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    >>> tx = lsam.layerwise_sam(None, rho=0.1, selection=lsam.everything(), layers="array")
    >>> tx.update(w, tx.init(w), w, grad_fn=lambda w: w)[1].selected.tolist()
    [True, True]
    """
    return Selector(all_layers)


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
    is_list = np.iterable(names) and not isinstance(names, str)
    wanted = tuple(names) if is_list else ()
    if not is_list or not all(isinstance(name, str) for name in wanted):
        raise TypeError(f"fixed takes a list of layer names; got names={names!r}.")

    def check(known: tuple[str, ...]) -> None:
        check_layer_names("selection", wanted, known)

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
