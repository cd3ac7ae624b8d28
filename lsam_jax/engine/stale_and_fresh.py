"""An ascent that is stale in front of a layer and fresh from it on; see `lsam_jax.stale`.

What stands in front moves first, along what is remembered. The fresh gradient of the rest is then
taken at weights whose front is the one that is descended too: the engine runs it once, forward and
backward, for both passes.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays.vectors import ratio, square_of
from lsam_jax.engine.traced_loss import Program
from lsam_jax.engine.two_pass import Method, Passes, in_one, in_two, put, two_pass

Leaves = Sequence[Any]


def stale_and_fresh(
    program: Program, leaves: Leaves, position: np.ndarray, assembly: Any
) -> Passes:
    """One step, whose loss and aux are those at the perturbed weights.

    Args:
      program: the loss.
      leaves: the parameters.
      position: i64[L], the place of each layer in the network.
      assembly: the method, whose selected layers are known before the step is compiled.
    """
    recipe, layers = assembly.recipe, assembly.now.layers
    late = assembly.candidates & (position >= position[layers.names.index(recipe.ascent.fresh)])
    index = [n for n, i in enumerate(layers.of_leaf) if i >= 0 and assembly.candidates[i]]
    is_late = [bool(late[layers.of_leaf[n]]) for n in index]
    front, back = in_two(index, is_late)
    w = [leaves[n] for n in index]
    _, _, d, _ = assembly.estimate(None, w, index)
    d_front, d_back = in_two(d, is_late)
    along_d, radius_of_d = assembly.perturb(d, w, index)
    moved_front, _ = in_two(along_d, is_late)

    def joined(g: Leaves) -> list[Any]:
        """What was remembered in front; behind, the fresh gradient at the length of d there."""
        scale = ratio(jnp.sqrt(square_of(d_back)), square_of(g))
        return in_one(d_front, [(scale * x).astype(x.dtype) for x in g], is_late)

    def perturb(g: Leaves, w_back: Leaves, at: Sequence[int]) -> tuple[list[Any], Any]:
        del w_back, at
        moved, radius = assembly.perturb(joined(g), w, index)
        return in_two(moved, is_late)[1], radius

    def finish(g: Leaves, h: Leaves, moved: Leaves, _: Any, loss: Any, radius: Any) -> Any:
        uphill = put(g, index, joined([g[n] for n in back]))
        there = put(moved, front, moved_front)
        return assembly.finish(uphill, h, there, None, loss, radius if back else radius_of_d)

    return two_pass(
        program,
        put(leaves, front, moved_front),
        layers.of_leaf,
        position,
        late,
        late,
        lambda: [0],
        recipe.gate,
        Method(perturb, finish, clean=False),
    )
