"""The loss around a trained network when one layer is moved.

Lee, `Layer-wise Adaptive Gradient Norm Penalizing Method for Efficient and Accurate Deep Learning
<https://doi.org/10.1145/3637528.3671728>`_ (KDD 2024), appendix A.2 and figures 2 and 6.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.layers import Layers, LayerSpec, partition


class Landscape(NamedTuple):
    """The loss on a square grid in a plane through the parameters.

    Attributes:
      steps: [points], the distances along each direction, from `-radius` to `radius`.
      loss: [points, points]; entry [i, j] is `steps[i]` along `first` and `steps[j]` along
        `second`.
      first: the first direction, a tree like the parameters and 0 outside the layer.
      second: the second, likewise.
    """

    steps: np.ndarray
    loss: jax.Array
    first: Any
    second: Any


def layer_landscape(
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    layer: str,
    key: jax.Array,
    radius: float = 1.0,
    points: int = 21,
    layers: LayerSpec = "kernel",
) -> Landscape:
    """The loss in a random plane inside one layer, all other parameters as they are.

    With u and v two random orthogonal directions of norm 1 inside the layer, it is L(w + a u + b v)
    for a and b from `-radius` to `radius` in equal steps. The paper's grid is about
    `radius=20, points=41`.

    The grid is one compiled loop. Layers, keys and parameters of the same shapes share it, as long
    as `loss_fn` is the same object. The same key gives networks of the same shapes the same
    directions, which makes their landscapes comparable.

    Args:
      loss_fn: `loss_fn(params, *args)`, a real scalar. BatchNorm should use its running statistics
        and dropout be off, or the loss is that of another network at each point.
      params: where the centre of the grid is.
      *args: further arguments of the loss, such as a batch.
      layer: the layer's name, as `lsam_jax.layer_names` gives it.
      key: a random key, for the directions.
      radius: the largest step along each direction.
      points: the number of steps along each direction, at least 2; with an odd number the centre
        is one of them.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Returns:
      A `Landscape`.

    Raises:
      ValueError: if there is no such layer, it has less than two parameters, `radius` is not
        positive or `points` is less than 2.
      TypeError: if the loss is not a real scalar.

    >>> params = {"w1": jnp.zeros((2, 3)), "w2": jnp.ones((3, 1))}
    >>> loss_fn = lambda p: 0.5 * jnp.sum(p["w1"] ** 2) + jnp.sum(p["w2"])
    >>> found = layer_landscape(loss_fn, params, layer="w1", key=jax.random.key(0), points=3)
    >>> print(found.steps)
    [-1.  0.  1.]
    >>> print(np.float64(found.loss).round(3))  # 3 + (a**2 + b**2) / 2, whatever the directions
    [[4.  3.5 4. ]
     [3.5 3.  3.5]
     [4.  3.5 4. ]]
    """
    parts = partition(params, layers)
    _check(parts, parts.leaves(params), layer, radius, points)
    first, second = _directions(parts, params, layer, key)
    steps = np.linspace(-radius, radius, points)
    grid = jnp.asarray(np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2))
    loss = _losses(loss_fn, params, first, second, grid, args).reshape(points, points)
    return Landscape(steps, loss, first, second)


@partial(jax.jit, static_argnums=0)
def _losses(
    loss_fn: Callable[..., Any], params: Any, first: Any, second: Any, grid: jax.Array, args: Any
) -> jax.Array:
    """The loss at each of the points [N, 2]; one after the other, for one network's memory."""

    def at(point: jax.Array) -> jax.Array:
        a, b = point

        def moved(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
            return (x + a.astype(u.dtype) * u + b.astype(v.dtype) * v).astype(x.dtype)

        out = loss_fn(jax.tree.map(moved, params, first, second), *args)
        if isinstance(out, jax.Array) and out.ndim == 0 and jnp.issubdtype(out.dtype, jnp.floating):
            return out
        raise TypeError(f"loss_fn must return a real scalar, and nothing beside it; got {out}.")

    return jax.lax.map(at, grid)


def _directions(parts: Layers, params: Any, layer: str, key: jax.Array) -> tuple[Any, Any]:
    """Two orthogonal directions of norm 1 inside a layer, which may have several arrays."""
    leaves = parts.leaves(params)
    inside = [n for n, i in enumerate(parts.of_leaf) if i == parts.names.index(layer)]
    sizes = [leaves[n].size for n in inside]
    dtype = jnp.result_type(jnp.float32, *(leaves[n].dtype for n in inside))
    first, second = jax.random.normal(key, (2, sum(sizes)), dtype)
    first = first / jnp.linalg.norm(first)
    second = second - jnp.vdot(first, second) * first
    second = second / jnp.linalg.norm(second)

    def tree(direction: jax.Array) -> Any:
        pieces = jnp.split(direction, np.cumsum(sizes)[:-1])
        every = [jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)) for x in leaves]
        for n, piece in zip(inside, pieces):
            every[n] = piece.reshape(leaves[n].shape).astype(every[n].dtype)
        return parts.tree(every)

    return tree(first), tree(second)


def _check(parts: Layers, leaves: list[Any], layer: str, radius: float, points: int) -> None:
    if layer not in parts.names:
        raise ValueError(
            f"layer={layer!r} does not exist. The layers are: {', '.join(parts.names)}."
        )
    size = parts.sizes(leaves)[parts.names.index(layer)]
    if size < 2:
        raise ValueError(f"layer={layer!r} has {size} parameter; a plane needs at least 2.")
    if not 0 < radius < np.inf:
        raise ValueError(f"radius must be positive and finite; got radius={radius}.")
    if points < 2:
        raise ValueError(f"points must be at least 2; got points={points}.")
