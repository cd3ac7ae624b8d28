"""From a traced loss to its network: the order of its layers, prices, cuts."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from lsam_jax.arguments import Cuts
from lsam_jax.engine import costs, loops
from lsam_jax.engine.network import Network
from lsam_jax.engine.step_rules import Chosen
from lsam_jax.engine.traced_loss import TracedLoss, layer_order
from lsam_jax.layers.leaves import Layers

AUTOMATIC = 12
"""How many cuts "auto" makes at most: each is two conditionals, that hand on what is kept."""


def network_of(
    program: TracedLoss,
    arrays: Sequence[Any],
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
    seen, each, of_each = program.apart(layers, arrays)
    position, reached = layer_order(seen, each, of_each, len(layers.names))

    @cache
    def profile() -> costs.Profile:
        return costs.profile(seen, each, of_each, position)

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
        sizes=layers.sizes(layers.leaves_of(arrays)),
        runs_in_part=lambda candidates: bool(scanned(candidates)),
    )

    def scanned(candidates: np.ndarray) -> list[loops.Loop]:
        return loops.find(seen.closed.jaxpr, Chosen(of_each, position, candidates, candidates))

    def place(cuts: Cuts, candidates: np.ndarray, k: int | None) -> list[int]:
        places = np.sort(position[candidates])
        if isinstance(cuts, str | int | np.integer):
            count = AUTOMATIC if cuts == "auto" else int(cuts)
            if count == 1:
                return [int(places[0])]
            begun, free = around_scans(candidates)
            # With k layers to choose, the first is no later than the k-th last candidate.
            free = free[free <= places[max(len(places) - (k or 1), 0)]]
            if len(free) > count:
                free = free[choose_cuts(quick()[free], count)]
        else:
            begun, _ = around_scans(candidates)
            free = position[[layers.names.index(name) for name in cuts]]
        return sorted({int(places[0]), *map(int, free), *begun})

    @cache
    def quick() -> np.ndarray:
        return costs.at_cuts(seen, each, of_each, position)

    def around_scans(candidates: np.ndarray) -> tuple[set[int], np.ndarray]:
        """Where iterations of scans begin, and what follows them; and the places outside."""
        places = np.sort(position[candidates])
        begun: set[int] = set()
        outside = np.ones(len(places), bool)
        for loop in scanned(candidates):
            at = np.searchsorted(places, [loop.begins, *loop.until], side="right")
            begun.update(int(places[n]) for n in at if n < len(places))
            outside &= (places <= loop.begins) | (places > loop.until[-1])
        return begun, places[outside]

    return network, place, profile


def network_apart(
    network: Network,
    descent: Callable[[], costs.Profile],
    ascent: TracedLoss,
    arrays: Sequence[Any],
    layers: Layers,
    cuts: Callable[[np.ndarray], Sequence[int]],
) -> Network:
    """The network where another loss is climbed than descended: the passes share nothing.

    Args:
      network: that of the loss that is descended.
      descent: counts the costs of that loss.
      ascent: the loss that is climbed.
      arrays: the parameters.
      layers: how they are cut into layers.
      cuts: from the candidates to the positions at which the ascent may end.
    """

    @cache
    def profile() -> costs.Profile:
        climbed = costs.profile(*ascent.apart(layers, arrays), network.position)
        return costs.apart(descent(), climbed)

    def cost(candidates: np.ndarray) -> Callable[[Any], Any]:
        order = np.argsort(network.position)
        counted = profile().ungated(cuts(candidates), candidates[order])
        return lambda selected: counted(selected[order])

    return network._replace(
        price=lambda: profile().full[network.position],
        first=lambda: profile().first[network.position],
        cost=cost,
    )


def choose_cuts(cost: np.ndarray, count: int) -> list[int]:
    """The `count` positions, 0 among them, at which cuts waste least.

    A step whose first perturbed layer is at position p uses the last cut at or before p and so
    pays for more of the network than it needs. What it pays too much is weighed relative to what
    it needs (plus a floor), so that steps near the output, the usual ones, stay cheap.

    Args:
      cost: f64[P], what a cut at each position costs in addition to a plain gradient.
      count: how many cuts at most.
    """
    places = len(cost)
    weight = 1 / (cost + 0.02) ** 2
    # waste[i, j]: of the layers i..j-1 if they share the cut i.
    waste = np.full((places, places + 1), np.inf)
    for i in range(places):
        waste[i, i + 1 :] = np.cumsum(weight[i:] * np.maximum(cost[i] - cost[i:], 0))
    # least[i]: of the layers from i on, with a cut at i and so many more; then[i]: the next cut.
    least = waste[:, places]
    then: list[np.ndarray] = []
    for _ in range(count - 1):
        total = np.concatenate([waste[:, :places] + least, waste[:, places:]], axis=1)
        then.append(np.argmin(total, axis=1))
        least = np.min(total, axis=1)
    cuts = [0]
    for step in reversed(then):
        if step[cuts[-1]] == places:
            break
        cuts.append(int(step[cuts[-1]]))
    return cuts
