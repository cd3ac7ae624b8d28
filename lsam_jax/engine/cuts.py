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
    cuts: Cuts,
    k: int | None,
    gated: bool = True,
    climbed: TracedLoss | None = None,
) -> tuple[Network, Callable[[np.ndarray], list[int]], Callable[[], costs.Profile]]:
    """The network of a loss, a function that places cuts in it, and one that counts its costs.

    The second takes the candidates, and gives the positions, ascending. Costs are counted only if
    something asks for them.

    Args:
      program: the loss that is descended.
      arrays: the parameters.
      layers: how they are cut into layers.
      cuts: where to cut.
      k: how many layers are selected, if that is static.
      gated: whether the gradients of layers that are not selected are skipped.
      climbed: the loss that is climbed, if that is another: the passes then share nothing.
    """
    seen, each, of_each = program.apart(layers, arrays)
    position, reached = layer_order(seen, each, of_each, len(layers.names))
    order = np.argsort(position)

    @cache
    def profile() -> costs.Profile:
        own = costs.profile(seen, each, of_each, position)
        if climbed is None:
            return own
        return costs.apart(own, costs.profile(*climbed.apart(layers, arrays), position))

    @cache
    def quick() -> np.ndarray:
        return costs.at_cuts(seen, each, of_each, position)

    def cost(candidates: np.ndarray) -> Callable[[Any], Any]:
        places = place(candidates)
        counted = profile().at(places) if gated else profile().ungated(places, candidates[order])
        return lambda selected: counted(selected[order])

    def scanned(candidates: np.ndarray) -> list[loops.Loop]:
        return loops.find(seen.closed.jaxpr, Chosen(of_each, position, candidates, candidates))

    def place(candidates: np.ndarray) -> list[int]:
        places = np.sort(position[candidates])
        count = AUTOMATIC if cuts == "auto" else cuts  # or the names of layers
        if count == 1:
            return [int(places[0])]
        begun, free = _around_scans(scanned(candidates), places)
        if isinstance(count, int | np.integer):
            # With k layers to choose, the first is no later than the k-th last candidate.
            free = free[free <= places[max(len(places) - (k or 1), 0)]]
            if len(free) > count:
                free = free[choose_cuts(quick()[free], int(count))]
        else:
            free = position[[layers.names.index(name) for name in count]]
        return sorted({int(places[0]), *map(int, free), *begun})

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
    return network, place, profile


def _around_scans(scanned: Sequence[loops.Loop], places: np.ndarray) -> tuple[set[int], np.ndarray]:
    """Where iterations of scans begin, and what follows them; and the places outside."""
    begun: set[int] = set()
    outside = np.ones(len(places), bool)
    for loop in scanned:
        at = np.searchsorted(places, [loop.begins, *loop.until], side="right")
        begun.update(int(places[n]) for n in at if n < len(places))
        outside &= (places <= loop.begins) | (places > loop.until[-1])
    return begun, places[outside]


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
