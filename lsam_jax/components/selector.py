"""Which layers a step perturbs: what a selection is told, and how it is asked.

A selector knows, before the step is compiled, which layers it could ever choose (its
candidates), and chooses among them at run time. Most give each layer a score: the k candidates
of highest score are perturbed, ties going to the layer nearest the output. One without a rule
takes all candidates: its choice is static, and the engine compiles nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arguments import Cuts, dtype_of, static_int
from lsam_jax.components.context import remember_nothing
from lsam_jax.engine.network import Network
from lsam_jax.layers.leaves import Layers


class Choice(NamedTuple):
    """What a selector chooses by, in one step.

    Attributes:
      norms: f32[L], as stored by the step before.
      count: i32[], steps taken before.
      k: how many layers; None if none was given.
      candidates: bool[L], static.
      network: what is known of the layers before the step is compiled, a `Network`; static.
      memory: what the selector remembers.
      last: bool[L], the layers that the step before perturbed.
      steps: how many steps will keep to the choice.
    """

    norms: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    k: Any
    candidates: np.ndarray
    network: Network
    memory: Any = ()
    last: Any = False
    steps: Any = 1


class Selector(NamedTuple):
    """Pure functions that choose layers.

    Attributes:
      candidates: from what is known of the network to bool[L], static: the layers that can ever be
        chosen. Known are, in the order of `layer_names`: `names`; `position`, i64[L], the place
        between input (0) and output (L - 1); `reached`, bool[L], whether the loss depends on it;
        `sizes`, i64[L]; `price()`, f64[L], the extra cost, relative to a plain gradient, of
        perturbing the layer and all nearer the output; `first()`, that of perturbing it alone.
      score: from the stored norms f32[L] and the step count to f32[L]: the k candidates of highest
        score are chosen. Without any of `score`, `draw` and `select`, every candidate is.
      check: raises if the selector does not fit layers of these names.
      one_cut: whether the candidates are so near each other that "auto" is one cut.
      draw: from the step count, the memory and the candidates to bool[L]: for a selector that
        chooses by itself, instead of by scores and k.
      init: makes its memory from the layers and the leaves of the parameters.
      observe: the memory after a step, from `(memory, selected, norms, candidates)`, norms being
        those of the ascent gradient, f32[L].
      select: the whole rule, of which `score` and `draw` are short forms: from a choice to be made
        to bool[L] and the new memory. It sees `norms`, `count`, `k`, `candidates`, `memory`,
        `last` (bool[L], the layers that the step before perturbed), `steps` (how many steps will
        keep to the choice) and `network`, as above, with `cost(candidates)`: a function from
        bool[L] to the counted extra cost of perturbing these layers at the engine's cuts. A
        selector that needs k has a `score` too. What it chooses as a NumPy array is known before
        the step is compiled.
      fewer: whether it may choose fewer than k.

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
    select: Callable[[Choice], tuple[Any, Any]] | None = None
    fewer: bool = False


def all_layers(network: Network) -> np.ndarray:
    """Candidates: whatever there is."""
    return np.ones(len(network.names), bool)


def candidates_of(selector: Selector, network: Network) -> np.ndarray:
    """The candidates of a selector, bool[L], static.

    Raises:
      ValueError, TypeError: unless they are, a list among them.
    """
    found: Any = selector.candidates(network)
    if isinstance(found, jax.core.Tracer):
        raise TypeError(
            "candidates of a Selector must be known before a step is compiled: make them by NumPy, "
            f"not by jax.numpy; got {found!r}."
        )
    _check_bools("candidates", found, len(network.names))
    return np.asarray(found, bool)


def _check_bools(rule: str, found: Any, layers: int) -> None:
    kind = dtype_of(found)
    is_bool = jnp.issubdtype(kind, jnp.bool_) or jnp.issubdtype(kind, jnp.integer)
    if not is_bool or np.shape(found) != (layers,):
        raise ValueError(
            f"{rule} of a Selector must give bool[{layers}], one for each layer; got "
            f"{kind}{list(np.shape(found))}: {found!r}."
        )


def select(selector: Selector, choice: Choice) -> tuple[np.ndarray, np.ndarray | jax.Array, Any]:
    """Chooses the layers of one step.

    Returns:
      The candidates, bool[L], static; the chosen layers, bool[L]: a NumPy array if they are known
      before the step is compiled, else a traced one; and what the selector remembers.
    """
    if selector.score is not None and static_int(choice.k) == 0:
        nothing_chosen = np.zeros_like(choice.candidates)
        return nothing_chosen, nothing_chosen, choice.memory
    selected, memory = ask(selector, choice)
    if isinstance(selected, np.ndarray):  # so that no other layer can ever be chosen
        candidates = choice.candidates & selected.astype(bool)
        return candidates, candidates, memory
    return choice.candidates, selected, memory


def ask(selector: Selector, choice: Choice) -> tuple[Any, Any]:
    """What a selector chooses, bool[L], and its memory; also for a selector around another."""
    if selector.select is not None:
        selected, memory = selector.select(choice)
        return _among_candidates("select", selected, choice), memory
    if selector.draw is not None:
        drawn = selector.draw(choice.count, choice.memory, choice.candidates)
        return _among_candidates("draw", drawn, choice), choice.memory
    static_k = static_int(choice.k)
    if selector.score is None or (static_k is not None and static_k >= choice.candidates.sum()):
        return choice.candidates, choice.memory
    return highest(selector.score(choice.norms, choice.count), choice), choice.memory


def _among_candidates(rule: str, selected: Any, choice: Choice) -> Any:
    _check_bools(rule, selected, len(choice.candidates))
    selected = selected.astype(bool)
    return selected if choice.candidates.all() else selected & choice.candidates


def highest(score: jax.Array, choice: Choice) -> jax.Array:
    """The k candidates of highest score, bool[L]; of equal ones those nearest the output.

    One that is not a number counts as the lowest.
    """
    candidates, network = choice.candidates, choice.network
    score = jnp.where(candidates & ~jnp.isnan(score), score, -jnp.inf)
    # Nearest the output first, layers that the loss does not reach last.
    order = np.lexsort((-network.position, ~network.reached, ~candidates))
    place = np.argsort(order)
    # Each with each: it compiles in half of a sort's time.
    ties = (score == score[:, None]) & (place < place[:, None])
    ahead = (score > score[:, None]) | ties
    rank = jnp.sum(ahead, axis=1, dtype=jnp.int32)
    return (rank < jnp.asarray(choice.k).astype(jnp.int32)) & candidates


def wanted(cuts: Cuts, selector: Selector, shared: bool = True) -> Cuts:
    """What to place for a selector: "auto" is one cut where more would serve nothing.

    Args:
      cuts: as the method has it.
      selector: which layers.
      shared: whether there are two passes that could share something.
    """
    return 1 if cuts == "auto" and (selector.one_cut or not shared) else cuts


def fewest(selector: Selector, k: int | None) -> int | None:
    """The smallest number of layers that a selector chooses, given k."""
    return None if selector.fewer else k
