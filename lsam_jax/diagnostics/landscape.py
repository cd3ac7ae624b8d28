"""The loss around a trained network, in a plane inside one layer or through all of them.

Lee, `Layer-wise Adaptive Gradient Norm Penalizing Method for Efficient and Accurate Deep Learning
<https://doi.org/10.1145/3637528.3671728>`_ (KDD 2024), appendix A.2 and figures 2 and 6; Li et
al., `Visualizing the Loss Landscape of Neural Nets <https://arxiv.org/abs/1712.09913>`_ (2018).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lsam_jax.arrays import promotion
from lsam_jax.diagnostics.batches import Calls, Loss, calls, mean, scalar
from lsam_jax.diagnostics.plane import filter_normalized, unit_directions
from lsam_jax.layers.partition import LayerSpec

PAPER_STEPS: Sequence[float] = range(-20, 20)
"""Of Lee's appendix A.2: with it a grid has 40 x 40 points."""

MODEL_STEPS: Sequence[float] = tuple(round(0.1 * i, 1) for i in range(-10, 11))
"""From -1 to 1, as Li et al. draw it, more coarsely."""

Progress = Callable[[Sequence[Any]], Iterable[Any]]


class Landscape(NamedTuple):
    """The loss on a square grid in a plane through the parameters.

    Attributes:
      steps: f64[P], the steps along each direction.
      loss: f64[P, P]; entry [i, j] is `steps[i]` along `first` and `steps[j]` along `second`.
      first: the first direction, a tree like the parameters and 0 in what is not moved.
      second: the second, likewise.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> found = diagnostics.layer_landscape(
    ...     lambda w: jnp.sum(w["a"] ** 2),
    ...     {"a": jnp.zeros((2, 2))},
    ...     layer="a",
    ...     key=jax.random.key(0),
    ...     steps=[0, 3],
    ... )
    >>> print(found.loss.round(3))
    [[ 0.  9.]
     [ 9. 18.]]
    """

    steps: np.ndarray
    loss: np.ndarray
    first: Any
    second: Any


@promotion.usual
def layer_landscape(
    loss_fn: Loss,
    params: Any,
    *args: Any,
    layer: str,
    key: jax.Array,
    steps: Any = PAPER_STEPS,
    batches: Any = None,
    layers: LayerSpec = "kernel",
    progress: Progress = iter,
) -> Landscape:
    """The loss in a random plane inside one layer, all other parameters as they are.

    With u and v two random orthogonal directions of norm 1 inside the layer, it is L(w + a u + b v)
    for a and b in `steps`.

    All points, layers, keys and parameters of the same shapes share one compilation, as long as
    `loss_fn` is the same object. The same key gives networks of the same shapes the same
    directions, which makes their landscapes comparable.

    Args:
      loss_fn: `loss_fn(params, *args)`, a real scalar. BatchNorm should use its running statistics
        and dropout be off, or the loss is that of another network at each point.
      params: where the centre of the grid is.
      *args: further arguments of the loss.
      layer: the layer's name, as `lsam_jax.layer_names` gives it.
      key: a random key, for the directions.
      steps: [P], how far along each direction, at least two; the paper's is -20, -19, ... 19.
      batches: a sequence of batches of one shape; the loss is then the mean of
        `loss_fn(params, batch, *args)`. None if `args` have all of the data.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.
      progress: called with the sequence of points, gives them one by one; `tqdm.tqdm` shows a bar.

    Returns:
      A `Landscape`.

    Raises:
      ValueError: if there is no such layer, it has less than two parameters, or `steps` or
        `batches` cannot serve.
      TypeError: if the loss is not a real scalar.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> params = {"w1": jnp.zeros((2, 3)), "w2": jnp.ones((3, 1))}
    >>> loss_fn = lambda p: 0.5 * jnp.sum(p["w1"] ** 2) + jnp.sum(p["w2"])
    >>> key = jax.random.key(0)
    >>> found = diagnostics.layer_landscape(loss_fn, params, layer="w1", key=key, steps=[-1, 0, 1])
    >>> print(found.loss.round(3))  # 3 + (a**2 + b**2) / 2, whatever the directions
    [[4.  3.5 4. ]
     [3.5 3.  3.5]
     [4.  3.5 4. ]]
    """
    every = calls(args, batches)
    taken = _checked(steps)
    plane = unit_directions(params, layer, key, layers)
    return _landscape(loss_fn, params, plane, taken, every, progress)


@promotion.usual
def model_landscape(
    loss_fn: Loss,
    params: Any,
    *args: Any,
    key: jax.Array,
    steps: Any = MODEL_STEPS,
    batches: Any = None,
    layers: LayerSpec = "kernel",
    progress: Progress = iter,
) -> Landscape:
    """The loss in a random plane through all kernels, with Li et al.'s filter normalisation.

    As `layer_landscape`, with directions in which each filter is as long as the network's own: a
    step of 1 moves each by its norm, so networks whose weights differ in scale can be compared.
    A filter is a slice along a kernel's last axis: all weights of one output. Biases and
    normalisation parameters stay.

    Args:
      loss_fn: `loss_fn(params, *args)`, a real scalar; see `layer_landscape`.
      params: where the centre of the grid is.
      *args: further arguments of the loss.
      key: a random key, for the directions.
      steps: [P], how far along each direction, in lengths of the filters; at least two.
      batches: as in `layer_landscape`.
      layers: what is moved: the arrays of rank > 1 in these layers; see `lsam_jax.layer_names`.
      progress: as in `layer_landscape`.

    Returns:
      A `Landscape`.

    Raises:
      ValueError: if nothing is moved, or `steps` or `batches` cannot serve.
      TypeError: if the loss is not a real scalar.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> params = {"w": 3 * jnp.ones((2, 3)), "b": jnp.ones(3)}
    >>> loss_fn = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"])
    >>> found = diagnostics.model_landscape(loss_fn, params, key=jax.random.key(0), steps=[0, 1])
    >>> print(found.loss[0, 0].round(3))  # 6 weights of 3, 3 biases of 1
    57.0
    """
    every = calls(args, batches)
    taken = _checked(steps)
    plane = filter_normalized(params, key, layers)
    return _landscape(loss_fn, params, plane, taken, every, progress)


def _landscape(
    loss_fn: Loss,
    params: Any,
    plane: tuple[Any, Any],
    steps: np.ndarray,
    every: Calls,
    progress: Progress,
) -> Landscape:
    # One point after the other, for one network's memory. Several at once (vmap), each with its
    # own kernels, were four times slower on a CPU: ResNet-20 at width 8, 256 images, four points.
    points = [(a, b) for a in steps for b in steps]
    loss = [
        float(mean(partial(_loss_at, loss_fn, params, *plane, a, b), every))
        for a, b in progress(points)
    ]
    return Landscape(steps, np.reshape(loss, (len(steps), len(steps))), *plane)


@partial(jax.jit, static_argnums=0)
def _loss_at(
    loss_fn: Loss, params: Any, first: Any, second: Any, a: Any, b: Any, arguments: Any
) -> jax.Array:
    def moved(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        return (x + a.astype(u.dtype) * u + b.astype(v.dtype) * v).astype(x.dtype)

    return scalar(loss_fn, jax.tree.map(moved, params, first, second), arguments)


def _checked(steps: Any) -> np.ndarray:
    try:
        found = np.asarray(steps, np.float64)
    except (TypeError, ValueError):
        found = np.zeros(())
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise ValueError(
            f"steps must be a list of at least two finite numbers, as np.linspace(-1, 1, 21); got "
            f"steps={steps!r}."
        )
    return found
