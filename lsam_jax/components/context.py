"""What the parts of a method are told, and what they may remember.

A method is made of parts: a selection (which layers), an ascent (uphill by what), a radius and a
perturbation (how far), a combination (what to descend) and a cadence (when). Each is a NamedTuple
of pure functions in a file of its own. A part that learns from step to step has two more: `init`
makes its memory, and the function that it is asked by returns the memory of the next step; the
memories of a method's parts stand side by side in `SamState.memory`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax.layers.leaves import Layers

Arrays = Sequence[Any]
"""One for each array that is spoken of."""


class Effect(NamedTuple):
    """What a step showed of its perturbation, on all devices together.

    Attributes:
      loss: f32[], that the second pass gave; the clean one of a step that perturbs nothing. None
        where only gradients are known.
      rise: f32[], see `SamState`; 0 where nothing moved.
    """

    loss: Any
    rise: Any


class StepContext(NamedTuple):
    """What is the same for all arrays in one step.

    Attributes:
      count: i32[], steps taken before.
      rho: the radius, a scalar or one for each layer, [L]; None until the ascent is known.
      alpha: the weight that the combination uses.
      layers: how the parameters are cut; static.
      at: the `Targets` that the step has moved; None before it has, and where it moves nothing.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    rho: Any
    alpha: Any
    layers: Layers
    at: Any = None

    def radius(self, layer: Any) -> Any:
        """The radius of a layer, or of those of the rows of an array."""
        return self.rho if jnp.ndim(self.rho) == 0 else self.rho[layer]


class Targets(NamedTuple):
    """Which arrays are spoken of: those that may move. One entry for each.

    What is stacked may hold several layers, one for each row along its first axis. `layer` and
    `chosen` are then arrays, of the rank of that array, to be combined with it.

    Attributes:
      leaf: its place among the leaves of the parameters.
      layer: the layer that it belongs to: an int, or i64[rows, 1, ...].
      chosen: whether that layer is selected: True if it is known to be, else bool[], or
        bool[rows, 1, ...].
    """

    leaf: Sequence[int]
    layer: Sequence[Any]
    chosen: Sequence[Any]


def remember_nothing(layers: Layers, leaves: Sequence[Any]) -> tuple[()]:
    """`init` of a part without memory."""
    del layers, leaves
    return ()


def zeros_like_layers(layers: Layers, leaves: Sequence[Any]) -> Any:
    """A tree like the parameters: zeros for an array of a layer, nothing for any other."""
    return layers.tree(
        [jnp.zeros_like(x) if i != -1 else () for i, x in zip(layers.of_leaf, leaves)]
    )
