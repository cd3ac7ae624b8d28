"""Two random directions through a trained network, in which its loss is looked at."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.diagnostics.block import block, of_leaves
from lsam_jax.layers.partition import LayerSpec, partition


def unit_directions(
    params: Any, layer: str, key: jax.Array, layers: LayerSpec = "kernel"
) -> tuple[Any, Any]:
    """Two orthogonal directions of norm 1 inside a layer, which may have several arrays.

    Args:
      params: a pytree of arrays.
      layer: the layer's name.
      key: a random key.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Returns:
      Two trees like the parameters, 0 outside the layer.

    Raises:
      ValueError: if there is no such layer, or it has less than two parameters.
    """
    inside = block(params, layer, layers)
    if inside.size < 2:
        raise ValueError(f"layer={layer!r} has {inside.size} parameter; a plane needs at least 2.")
    widest = jnp.result_type(*(d for d, chosen in zip(inside.dtypes, inside.chosen) if chosen))
    first, second = np.asarray(jax.random.normal(key, (2, inside.size), widest), np.float64)
    first = first / np.linalg.norm(first)
    second = second - (first @ second) * first
    second = second / np.linalg.norm(second)
    return inside.tree(first), inside.tree(second)


def filter_normalized(params: Any, key: jax.Array, layers: LayerSpec = "kernel") -> tuple[Any, Any]:
    """Two random directions with each filter as long as the network's own.

    A filter is what makes one output: d_ij |w_ij| / |d_ij| for the j-th slice along the last axis
    of the i-th kernel. Biases, normalisation parameters and all else of rank 1 stay. The two are
    not made orthogonal, which in so many dimensions they nearly are.

    Args:
      params: a pytree of arrays.
      key: a random key.
      layers: what is moved: the arrays of rank > 1 in these layers; see `lsam_jax.layer_names`.

    Returns:
      Two trees like the parameters.

    Raises:
      ValueError: if no array is moved.
    """
    parts = partition(params, layers).apart()
    leaves = parts.leaves(params)
    ranks = [np.ndim(x) - has_row for x, has_row in zip(leaves, parts.stacked)]
    chosen = [i != -1 and rank > 1 for i, rank in zip(parts.of_leaf, ranks)]
    if not any(chosen):
        raise ValueError(
            f"layers={layers!r} has no array of rank > 1, so there is no filter to move. The "
            f"paths are: {', '.join(path for paths in parts.paths for path in paths)}."
        )
    inside = of_leaves(params, parts, chosen)
    first, second = (
        inside.tree(np.asarray(jax.random.normal(k, (inside.size,)), np.float64))
        for k in jax.random.split(key)
    )

    def rescaled(directions: Any) -> Any:
        return parts.tree([_like(d, x) for d, x in zip(parts.leaves(directions), leaves)])

    return rescaled(first), rescaled(second)


def _like(direction: jax.Array, weights: jax.Array) -> jax.Array:
    """The direction with each slice along the last axis as long as that of the weights."""
    axes = tuple(range(direction.ndim - 1))
    if not axes:  # what has one axis has no filters, and the direction is 0
        return direction
    wide = weights.astype(direction.dtype)
    length, wanted = (jnp.sqrt(jnp.sum(x**2, axes, keepdims=True)) for x in (direction, wide))
    return direction * jnp.where(length > 0, wanted / jnp.where(length > 0, length, 1), 0)
