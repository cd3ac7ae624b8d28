"""From a traced loss to what selectors and the engine need to know: order, prices, cuts."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from lsam_jax import costs
from lsam_jax.choosing import Network, Selector
from lsam_jax.layers.partition import Layers
from lsam_jax.program import Program, layer_order

Cuts = str | int | Sequence[str]
AUTOMATIC = 4
"""How many cuts "auto" makes at most: each is a copy of the step to compile."""


def network_of(
    program: Program,
    leaves: Sequence[Any],
    layers: Layers,
    cuts: Cuts = "auto",
    k: int | None = None,
    gated: bool = True,
) -> tuple[
    Network, Callable[[Cuts, np.ndarray, int | None], list[int]], Callable[[], costs.Profile]
]:
    """The network of a loss, a function that places cuts in it, and one that counts its costs.

    The second takes the argument `cuts`, the candidates, and k if it is static, and gives the
    positions, ascending. Costs are counted only if something asks for them; what a step costs
    depends on the cuts that will be made, which `cuts` and `k` say, and on whether the gradients of
    layers that are not selected are `gated`.
    """
    position, reached = layer_order(program, leaves, layers.of_leaf, len(layers.names))

    @cache
    def profile() -> costs.Profile:
        return costs.profile(program, leaves, layers.of_leaf, position)

    def cost(candidates: np.ndarray) -> Callable[[Any], Any]:
        places, order = place(cuts, candidates, k), np.argsort(position)
        counted = profile().at(places) if gated else profile().ungated(places, candidates[order])
        return lambda selected: counted(selected[order])

    network = Network(
        layers.names,
        position,
        reached,
        price=lambda: profile().full[position],
        first=lambda: profile().first[position],
        cost=cost,
        sizes=layers.sizes(leaves),
    )

    def place(cuts: Cuts, candidates: np.ndarray, k: int | None) -> list[int]:
        places = np.sort(position[candidates])
        if isinstance(cuts, str | int):
            count = AUTOMATIC if cuts == "auto" else int(cuts)
            # With k layers to choose, the first is no later than the k-th last candidate.
            latest = len(places) - (k or 1)
            chosen = (
                costs.choose_cuts(profile().shared[places], latest, count) if count > 1 else [0]
            )
            return [int(places[i]) for i in chosen]
        at = {int(position[layers.names.index(name)]) for name in cuts}
        return sorted(at | {int(places[0])})

    return network, place, profile


def network_apart(
    network: Network,
    descent: Callable[[], costs.Profile],
    ascent: Program,
    leaves: Sequence[Any],
    layers: Layers,
    cuts: Callable[[np.ndarray], Sequence[int]],
) -> Network:
    """The network where another loss is climbed than descended: the passes share nothing.

    Args:
      network: that of the loss that is descended.
      descent: counts the costs of that loss.
      ascent: the loss that is climbed.
      leaves: the parameters.
      layers: how they are cut into layers.
      cuts: from the candidates to the positions at which the ascent may end.
    """

    @cache
    def profile() -> costs.Profile:
        return costs.apart(
            descent(), costs.profile(ascent, leaves, layers.of_leaf, network.position)
        )

    def cost(candidates: np.ndarray) -> Callable[[Any], Any]:
        order = np.argsort(network.position)
        counted = profile().ungated(cuts(candidates), candidates[order])
        return lambda selected: counted(selected[order])

    return network._replace(
        price=lambda: profile().full[network.position],
        first=lambda: profile().first[network.position],
        cost=cost,
    )


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


def check_cuts(cuts: Any) -> None:
    """Raises unless `cuts` is "auto", a whole number of at least 1, or a list of names."""
    names = isinstance(cuts, list | tuple) and all(isinstance(name, str) for name in cuts)
    number = isinstance(cuts, int | np.integer) and not isinstance(cuts, bool) and cuts >= 1
    if not (names or number or (isinstance(cuts, str) and cuts == "auto")):
        raise ValueError(
            'cuts must be "auto", a number of cuts (at least 1), or a list of layer names; got '
            f"cuts={cuts!r}."
        )


def check_cut_names(cuts: Any, names: Sequence[str]) -> None:
    """Raises unless every layer that `cuts` names exists."""
    if isinstance(cuts, list | tuple):
        for name in cuts:
            if name not in names:
                raise ValueError(
                    f"cuts names the layer {name!r}, which does not exist. The layers are: "
                    f"{', '.join(names)}."
                )
