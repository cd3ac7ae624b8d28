"""ASAM: moves weights relative to their size."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax import arguments
from lsam_jax.arrays.vectors import by_row, squared_norm, widened
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.perturbation import Perturbation, along
from lsam_jax.components.radius import Radius
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method

BIASES = ("b", "beta", "bias", "offset")
"""Last parts of a path that name a bias, in Flax, Equinox, Haiku and Keras."""


@with_options
def asam(
    rho: Radius = 0.5,
    eta: Any = 0.01,
    *,
    scaled: str | Callable[[str], bool] = "weights",
    **options: Unpack[SelectionOptions],
) -> SamTransformation:
    """ASAM (Kwon et al. 2021, eq. 9): descends on the gradient at w + rho T^2 g / ||T g||.

    T is |w| + eta for a weight and 1 for a bias, so that the radius is measured in units of the
    weights. https://arxiv.org/abs/2102.11600

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      eta: added to |w|, at least 0.
      scaled: what has T = |w| + eta: "weights" (the authors' code: all but biases, so the scales
        of normalisation layers too), "kernels" (arrays of rank > 1 only), "all", or a function
        of a path.
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.asam(rho=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 3) for x in direction.tolist()]  # the larger weight moves further than in SAM
    [3.738, 5.747]
    """
    arguments.check_number("eta", eta, low=0.0)
    return method(rho=rho, perturbation=adaptive(eta, _scaling(scaled)), **options)


def _scaling(scaled: str | Callable[[str], bool]) -> Callable[[str, int], bool]:
    if callable(scaled):
        return lambda path, rank: scaled(path)
    if scaled == "weights":
        return lambda path, rank: path.rpartition("/")[2].rpartition("|")[2] not in BIASES
    if scaled == "kernels":
        return lambda path, rank: rank > 1
    if scaled == "all":
        return lambda path, rank: True
    raise ValueError(
        'scaled must be "weights", "kernels", "all" or a function of a path; got '
        f"scaled={scaled!r}."
    )


def adaptive(eta: Any, scaled: Callable[[str, int], bool]) -> Perturbation:
    """`w + rho T^2 g / ||T g||`, T being `|w| + eta` or 1 (Kwon et al. 2021, eq. 9).

    Args:
      eta: a number.
      scaled: from the path and the rank of an array to whether its T is `|w| + eta`.
    """

    def move(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
        size = [_size(eta, scaled, now.layers, n, x) for n, x in zip(at.leaf, w)]
        once = [d if t is None else t * d for t, d in zip(size, g)]
        twice = [d if t is None else t * d for t, d in zip(size, once)]
        return along(twice, squared_norm(once), w, at, now)

    return Perturbation(move)


def _size(
    eta: Any, scaled: Callable[[str, int], bool], layers: Layers, n: int, w: jax.Array
) -> jax.Array | None:
    """T of an array; None where it is 1."""
    rank = w.ndim - layers.stacked[n]
    rows = np.array([scaled(path, rank) for path in layers.paths[n]])
    if not rows.any():
        return None
    wide = jnp.abs(widened(w))
    size = wide + jnp.asarray(eta, wide.dtype)
    return size if rows.all() else jnp.where(by_row(rows, w), size, jnp.ones_like(size))
