"""How far two networks are from each other."""

from typing import Any, NamedTuple

import jax
import numpy as np

from lsam_jax.arrays import promotion
from lsam_jax.diagnostics.block import block
from lsam_jax.layers.partition import LayerSpec, layer_names


class Distance(NamedTuple):
    """A distance between two points.

    Attributes:
      euclidean: the norm of the difference.
      relative: the same over the mean of the two norms; 0 if both are 0, and at most 2.

    >>> from lsam_jax import diagnostics
    >>> diagnostics.Distance(5.0, 2.0).relative
    2.0
    """

    euclidean: float
    relative: float


class Distances(NamedTuple):
    """The distance between two networks, whole and by layer.

    Attributes:
      whole: over all parameters, those in no layer too.
      layers: for each layer by its name.

    >>> from lsam_jax import diagnostics
    >>> five = diagnostics.Distance(5.0, 2.0)
    >>> diagnostics.Distances(five, {"w": five}).layers["w"].euclidean
    5.0
    """

    whole: Distance
    layers: dict[str, Distance]


@promotion.usual
def distance_between(first: Any, second: Any, layers: LayerSpec = "kernel") -> Distances:
    """The distance |a - b| between two networks, and |a - b| / ((|a| + |b|) / 2).

    Weights are compared as they stand. Networks that differ in the order of their channels, or in
    a scale that normalisation takes out, compute the same and are far from each other.

    Args:
      first: a, a pytree of arrays.
      second: b, likewise, of the same structure and shapes.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Returns:
      `Distances`, of the whole and of each layer.

    Raises:
      ValueError: if the two are not networks of the same structure and shapes.
      TypeError: if an array is not of a real floating type.

    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> a = {"w": jnp.array([[3.0, 0.0]]), "b": jnp.zeros(1)}
    >>> b = {"w": jnp.array([[0.0, 4.0]]), "b": jnp.zeros(1)}
    >>> found = diagnostics.distance_between(a, b)
    >>> found.whole.euclidean, round(found.whole.relative, 4), list(found.layers)
    (5.0, 1.4286, ['w'])
    """
    a, b = _shapes(first), _shapes(second)
    if a != b:
        path = min(path for path in a.keys() | b.keys() if a.get(path) != b.get(path))
        raise ValueError(
            f"first and second must be networks of the same shapes; {path!r} is "
            f"{a.get(path, 'missing')} in first and {b.get(path, 'missing')} in second."
        )
    return Distances(
        _distance(first, second, None, layers),
        {name: _distance(first, second, name, layers) for name in layer_names(first, layers)},
    )


def _distance(first: Any, second: Any, layer: str | None, layers: LayerSpec) -> Distance:
    inside = block(first, layer, layers)
    a, b = inside.vector(first), inside.vector(second)
    euclidean = float(np.linalg.norm(a - b))
    scale = float(np.linalg.norm(a) + np.linalg.norm(b)) / 2
    return Distance(euclidean, euclidean / scale if scale else 0.0)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
