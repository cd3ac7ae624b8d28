"""What is known of the layers before a step is compiled."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lsam_jax.layers.leaves import Layers


class Network(NamedTuple):
    """What is known of the layers before a step is compiled.

    Attributes:
      names: the L names.
      position: i64[L], the place of each layer between input (0) and output (L - 1).
      reached: bool[L], whether the loss depends on the layer at all.
      price: gives f64[L]: the extra cost of a step, relative to a plain gradient, if this layer
        and all nearer the output are perturbed.
      first: the same, if this layer alone is perturbed.
      cost: from the candidates to a function from selected layers, bool[L] and traced or not, to
        the counted extra cost of a step that perturbs them, at the cuts that the engine makes.
      sizes: i64[L], how many numbers each layer holds.
      runs_in_part: from the candidates to whether the passes run scans over them in part.
    """

    names: tuple[str, ...]
    position: np.ndarray
    reached: np.ndarray
    price: Callable[[], np.ndarray]
    first: Callable[[], np.ndarray]
    cost: Callable[[np.ndarray], Callable[[Any], Any]]
    sizes: np.ndarray
    runs_in_part: Callable[[np.ndarray], bool]


def in_tree_order(
    layers: Layers,
    leaves: Sequence[Any],
    why: str = "and grad_fn does not show it: pass value_fn, not grad_fn.",
) -> Network:
    """The network as far as it is known without a loss: in the order of the pytree.

    Args:
      layers: how the parameters are cut.
      leaves: the parameters.
      why: costs are not known, and the way out.
    """

    def unknown(*_: Any) -> Any:
        raise ValueError(f"price, per_cost or budget needs to count what a layer costs, {why}")

    number = len(layers.names)
    return Network(
        names=layers.names,
        position=np.arange(number),
        reached=np.ones(number, bool),
        price=unknown,
        first=unknown,
        cost=unknown,
        sizes=layers.sizes(leaves),
        runs_in_part=lambda candidates: True,
    )
