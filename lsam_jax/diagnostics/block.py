"""What a measure moves: the parameters of one layer, or all, as one vector."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.layers.leaves import Layers
from lsam_jax.layers.partition import LayerSpec, partition


class Block(NamedTuple):
    """Some of the leaves of a parameter pytree; static.

    Attributes:
      parts: how the parameters are cut into leaves.
      chosen: bool for each leaf, whether it is in the block.
      shapes: the shape of each leaf.
      dtypes: the type of each leaf in directions, at least float32.
    """

    parts: Layers
    chosen: tuple[bool, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @property
    def size(self) -> int:
        """How many parameters are in the block."""
        return sum(int(np.prod(s)) for s, c in zip(self.shapes, self.chosen) if c)

    def leaves(self, tree: Any) -> list[Any]:
        """The block's arrays in a tree like the parameters."""
        return [x for x, c in zip(self.parts.leaves(tree), self.chosen) if c]

    def replace(self, tree: Any, leaves: Sequence[Any]) -> Any:
        """The tree with these as the block's arrays."""
        new = iter(leaves)
        return self.parts.tree(
            [next(new) if c else x for x, c in zip(self.parts.leaves(tree), self.chosen)]
        )

    def vector(self, tree: Any) -> np.ndarray:
        """The block's numbers in a tree like the parameters, f64[size]."""
        return flat(self.leaves(tree))

    def split(self, vector: np.ndarray) -> list[jax.Array]:
        """The block's arrays that have the numbers of a vector [size]."""
        chosen = [(s, d) for s, d, c in zip(self.shapes, self.dtypes, self.chosen) if c]
        ends = np.cumsum([int(np.prod(shape)) for shape, _ in chosen])[:-1]
        return [
            jnp.asarray(piece.reshape(shape), dtype)
            for piece, (shape, dtype) in zip(np.split(vector, ends), chosen)
        ]

    def tree(self, vector: np.ndarray) -> Any:
        """A tree like the parameters that has the numbers of a vector [size], and else 0."""
        zeros = [jnp.zeros(s, d) for s, d in zip(self.shapes, self.dtypes)]
        return self.replace(self.parts.tree(zeros), self.split(vector))


def flat(leaves: Sequence[Any]) -> np.ndarray:
    """Arrays as one vector, in float64 on the host."""
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])


def block(params: Any, layer: str | None, layers: LayerSpec = "kernel") -> Block:
    """The block of one layer, or of all parameters.

    Args:
      params: a pytree of arrays.
      layer: the layer's name, as `lsam_jax.layer_names` gives it; None for all parameters, those
        in no layer too.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Raises:
      ValueError: if there is no such layer.
      TypeError: if an array of `params` is not of a real floating type.
    """
    parts = partition(params, "array" if layer is None else layers).apart()
    if layer is not None and layer not in parts.names:
        raise ValueError(
            f"layer={layer!r} does not exist. The layers are: {', '.join(parts.names)}."
        )
    return of_leaves(
        params, parts, [layer is None or i == parts.names.index(layer) for i in parts.of_leaf]
    )


def of_leaves(params: Any, parts: Layers, chosen: Sequence[bool]) -> Block:
    """The block of the chosen leaves."""
    leaves = parts.leaves(params)
    return Block(
        parts,
        tuple(chosen),
        tuple(np.shape(x) for x in leaves),
        tuple(jnp.promote_types(jnp.result_type(x), jnp.float32) for x in leaves),
    )
