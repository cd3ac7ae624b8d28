"""A selector that keeps a step's cost within a budget."""

from typing import Any

import numpy as np

from lsam_jax.arguments import check_real, is_concrete
from lsam_jax.selection import Network, Selector, as_selector


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
    check_real("fraction", fraction, low=0.0)
    if not is_concrete(fraction):
        raise TypeError("fraction decides what is compiled, so it must be a plain number.")
    inner = as_selector(selection)

    def candidates(network: Network) -> np.ndarray:
        allowed = inner.candidates(network) & network.reached
        price = network.price()
        affordable = allowed & (price <= fraction)
        if not affordable.any():
            prices = np.where(allowed, price, np.inf)
            cheapest = int(np.argmin(prices))
            raise ValueError(
                f"fraction={fraction:g} affords no layer: the cheapest, "
                f"{network.names[cheapest]!r}, costs {prices[cheapest]:.4g} of a plain gradient."
            )
        return affordable

    return inner._replace(candidates=candidates, one_cut=True)
