"""Selectors that know what layers cost: within a budget, by norm per cost, at a mean price."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arguments import check_static
from lsam_jax.components.selection import as_selector
from lsam_jax.components.selector import Choice, Selector, ask, candidates_of
from lsam_jax.engine.network import Network
from lsam_jax.layers.leaves import Layers


def budget(fraction: float, selection: Any = "high") -> Selector:
    """Only layers so near the output that a step's extra cost stays within a budget.

    The extra cost of perturbing all layers from the i-th on is counted before the step is
    compiled (floating-point operations of one more forward pass, the error propagation and the
    weight gradients, from layer i on); layers for which it exceeds `fraction` of a plain gradient
    are never chosen. The step then has one static cut, no conditional over cuts, and this
    price at most, whatever the norms.

    Args:
      fraction: the budget relative to a plain gradient, e.g. 0.1; more than 0.
      selection: how to choose among the layers within the budget: "high" (the k of largest
        norm), "all" (every one, k is not used), or another selection.

    Raises:
      TypeError: if `fraction` is a schedule or traced: it decides what is compiled.
      ValueError: if `fraction` is negative; when first used, if the budget affords no layer, with
        the price of the cheapest one, or if only a `grad_fn` is given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"w1": jnp.ones((8, 8)), "w2": jnp.ones((8, 8)), "w3": jnp.ones((8, 1))}
    >>> loss_fn = lambda p, x: jnp.mean(x @ p["w1"] @ p["w2"] @ p["w3"])
    >>> tx = lsam.layerwise_sam(k=2, rho=0.1, selection=lsam.budget(0.1))
    >>> step = lsam.value_and_grad(loss_fn, tx)
    >>> loss, grads, sam_state = step(params, tx.init(params), jnp.ones((4, 8)))
    >>> sam_state.selected.tolist()  # w1 and w2 would cost more than 0.1
    [False, False, True]
    """
    check_static("fraction", fraction, "decides what is compiled", low=0.0)
    inner = as_selector(selection)

    def candidates(network: Network) -> np.ndarray:
        allowed = candidates_of(inner, network) & network.reached
        price = network.price()
        affordable = allowed & (price <= fraction)
        if not affordable.any():
            prices = np.where(allowed, price, np.inf)
            cheapest = int(np.argmin(prices))
            raise ValueError(
                f"budget(fraction={fraction:g}) affords no layer: the cheapest, "
                f"{network.names[cheapest]!r}, costs {prices[cheapest]:.4g} of a plain gradient."
            )
        return affordable

    return inner._replace(candidates=candidates, one_cut=True)


def per_cost(selection: Any = "high") -> Selector:
    """Chooses by norm per cost, where another selection chooses by norm.

    The stored norm of each layer is divided by its cost: what a step that perturbs it alone takes
    more than a plain gradient, counted before the step is compiled.

    Args:
      selection: how to choose by these: "high" (the k of largest norm per cost), "low", or another
        selection that goes by norms.

    Raises:
      ValueError: if the selection does not go by norms; when first used, if only a `grad_fn` is
        given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"w1": jnp.ones((8, 8)), "w2": jnp.ones((8, 8)), "w3": jnp.ones((8, 1))}
    >>> loss_fn = lambda p, x: jnp.mean(x @ p["w1"] @ p["w2"] @ p["w3"])
    >>> for selection in ("high", lsam.per_cost()):
    ...     tx = lsam.layerwise_sam(k=1, rho=0.1, selection=selection)
    ...     sam_state = tx.init(params)._replace(norms=jnp.asarray([2.0, 1.0, 1.0]))
    ...     step = lsam.value_and_grad(loss_fn, tx)
    ...     loss, grads, sam_state = step(params, sam_state, jnp.ones((4, 8)))
    ...     print(sam_state.selected.tolist())  # w1 costs 0.78, w3 0.05
    [True, False, False]
    [False, False, True]
    """
    inner = as_selector(selection)
    if inner.score is None:
        raise ValueError(
            'per_cost needs a selection that goes by norms and k, such as "high"; got '
            f"selection={selection!r}."
        )

    def select(choice: Choice) -> tuple[Any, Any]:
        cost = choice.network.first()
        known = np.asarray(np.where(cost > 0, cost, np.inf), np.float32)
        return ask(inner, choice._replace(norms=choice.norms / known))

    return inner._replace(select=select)


class Account(NamedTuple):
    """The memory of `price`.

    Attributes:
      balance: f32[], what the steps so far have left of their price, in plain gradients.
      inner: what the selection that is held to the price remembers.
    """

    balance: jax.Array
    inner: Any


def price(mean: float, selection: Any = "high") -> Selector:
    """Keeps the mean cost of a step, over a run, at or below a price.

    Every step pays in the price, and takes out its counted cost (floating-point operations at the
    engine's cuts, as `Inspection.cost` counts it). A step perturbs what `selection` chooses if the
    account permits that, and else the cheapest layer of all, alone, which saves for it. So layers
    in front, which a `budget` never affords, are perturbed too, and the mean never exceeds the
    price. Steps that do not perturb (LookSAM's, say) pay in as well.

    The count knows of two passes over the same batch: where the ascent takes a part of the batch, a
    step costs less. Where several steps keep to a choice (`select_every`), it must be affordable
    in each of them.

    Args:
      mean: the price of a step relative to a plain gradient, e.g. 1.10; above 1.
      selection: what to perturb when it is affordable: "high" (the k of largest norm), "all",
        `per_cost()`, or another selection.

    Returns:
      A `Selector` whose memory holds the account.

    Raises:
      TypeError: if `mean` is a schedule or traced: it decides whether there is a program at all.
      ValueError: if it is not above 1; when first used, if it is below the cost of the cheapest
        layer, with that cost, or if only a `grad_fn` is given.

    >>> import jax, jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"w1": jnp.ones((8, 8)), "w2": jnp.ones((8, 8)), "w3": jnp.ones((8, 1))}
    >>> loss_fn = lambda p, x: jnp.mean(x @ p["w1"] @ p["w2"] @ p["w3"])
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, selection=lsam.price(1.30, ["w1"]))
    >>> step, sam_state = jax.jit(lsam.value_and_grad(loss_fn, tx)), tx.init(params)
    >>> for _ in range(6):  # w1 costs 1.78, w3 1.05
    ...     loss, grads, sam_state = step(params, sam_state, jnp.ones((4, 8)))
    >>> sam_state.perturbations.tolist()
    [2, 0, 4]
    """
    check_static("mean", mean, "is compared with what is compiled", above=1.0)
    inner = as_selector(selection)

    def candidates(network: Network) -> np.ndarray:
        wanted, reached = candidates_of(inner, network), network.reached
        if not (wanted & reached).any():
            return wanted
        first = np.where(reached, network.first(), np.inf)
        return wanted | (first == first.min())  # which saves for what is wanted

    def select(choice: Choice) -> tuple[Any, Any]:
        if not choice.candidates.any():
            return choice.candidates, choice.memory
        income = float(mean) - 1
        cost = choice.network.cost(choice.candidates)
        cheapest = _cheapest(mean, choice, cost)
        wanted = choice.candidates & candidates_of(inner, choice.network)
        of_inner = choice._replace(candidates=wanted, memory=choice.memory.inner)
        wish, kept = ask(inner, of_inner)
        # What the step before cost shows in what it has perturbed, even where it was not finite.
        change = jnp.where(choice.count > 0, income - cost(jnp.asarray(choice.last)), 0)
        balance = (choice.memory.balance + change).astype(jnp.float32)
        affordable = choice.steps * (cost(wish) - income) <= balance
        return jnp.where(affordable, wish, cheapest), Account(balance, kept)

    def init(layers: Layers, leaves: Sequence[Any]) -> Account:
        return Account(jnp.zeros((), jnp.float32), inner.init(layers, leaves))

    def observe(memory: Account, *seen: Any) -> Account:
        return memory._replace(inner=inner.observe(memory.inner, *seen))

    return inner._replace(
        candidates=candidates, select=select, init=init, observe=observe, fewer=True
    )


def _cheapest(mean: float, choice: Choice, cost: Any) -> np.ndarray:
    """The cheapest layer alone, bool[L], of equal ones that nearest the output."""
    network = choice.network
    each = np.eye(len(network.names), dtype=bool)
    possible = choice.candidates & network.reached
    if not possible.any():  # nothing is wanted
        return np.zeros_like(possible)
    costs = np.asarray([cost(alone) if ok else np.inf for alone, ok in zip(each, possible)])
    layer = min(range(len(costs)), key=lambda i: (costs[i], -network.position[i]))
    if 1 + costs[layer] > mean:
        raise ValueError(
            f"price={mean:g} is below the cost of a step that perturbs the cheapest layer alone, "
            f"{network.names[layer]!r}: {1 + costs[layer]:.4g} of a plain gradient. Pass a price "
            "of at least that, or more cuts."
        )
    return each[layer]
