"""The gradient's norm in each layer, at one point or all through training.

Lee, `Layer-wise Adaptive Gradient Norm Penalizing Method for Efficient and Accurate Deep Learning
<https://doi.org/10.1145/3637528.3671728>`_ (KDD 2024), figure 1.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays import promotion
from lsam_jax.diagnostics.ball import value_and_gradient
from lsam_jax.diagnostics.batches import Loss, calls, mean
from lsam_jax.layers.partition import LayerSpec, partition


@promotion.usual
def layer_norms(gradient: Any, layers: LayerSpec = "kernel") -> dict[str, jax.Array]:
    """The Euclidean norm of each layer of a tree; also inside `jit`.

    Args:
      gradient: a tree like the parameters.
      layers: how it is cut into layers; see `lsam_jax.layer_names`.

    Returns:
      For each layer by its name, f32[].

    Raises:
      ValueError: if `layers` puts no array in a layer.

    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> diagnostics.layer_norms({"w1": jnp.array([[3.0, 4.0]]), "w2": jnp.zeros((2, 1))})
    {'w1': Array(5., dtype=float32), 'w2': Array(0., dtype=float32)}
    """
    parts = partition(gradient, layers)
    return dict(zip(parts.names, parts.norms(parts.leaves(gradient))))


@promotion.usual
def gradient_norms(
    loss_fn: Loss,
    params: Any,
    *args: Any,
    batches: Any = None,
    layers: LayerSpec = "kernel",
) -> dict[str, jax.Array]:
    """The norm of a loss's gradient in each layer.

    Args:
      loss_fn: `loss_fn(params, *args)`, a real scalar.
      params: where.
      *args: further arguments of the loss.
      batches: a sequence of batches of one shape; the loss is then the mean of
        `loss_fn(params, batch, *args)`, and it is the norm of the mean gradient. None if `args`
        have all of the data.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Returns:
      For each layer by its name, f32[].

    Raises:
      ValueError: if `layers` puts no array in a layer, or `batches` cannot serve.
      TypeError: if the loss is not a real scalar.

    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> params = {"w1": jnp.array([[3.0, 4.0]]), "w2": jnp.ones((2, 1))}
    >>> diagnostics.gradient_norms(lambda p: jnp.sum(p["w1"] ** 2), params)["w1"]
    Array(10., dtype=float32)
    """
    _, gradient = mean(partial(value_and_gradient, loss_fn, params), calls(args, batches))
    return layer_norms(gradient, layers)


class NormRecorder:
    """Collects layers' norms, step by step, without waiting for the device.

    What a step has anyway is enough: `SamState.norms` of an optimizer of this library, or
    `layer_norms` of the gradient of any other.

    Args:
      names: the L layers, as `lsam_jax.layer_names` gives them.

    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> recorder = diagnostics.NormRecorder(["w1", "w2"])
    >>> recorder.append({"w1": 5.0, "w2": 1.0})
    >>> recorder.append(jnp.array([4.0, 2.0]), step=10)
    >>> recorder.steps, recorder.norms
    (array([ 0, 10]), array([[5., 1.],
           [4., 2.]], dtype=float32))
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._steps: list[int] = []
        self._rows: list[Any] = []

    def append(self, norms: Any, step: int | None = None) -> None:
        """Adds the norms of one step.

        Args:
          norms: [L], or a mapping from each name to its norm.
          step: which; None for the one after the last.

        Raises:
          ValueError: if there is not one norm for each layer.

        >>> from lsam_jax import diagnostics
        >>> diagnostics.NormRecorder(["w1", "w2"]).append([1.0, 2.0])
        """
        if isinstance(norms, Mapping):
            if set(norms) != set(self.names):
                raise ValueError(
                    f"norms must have the layers {', '.join(self.names)}; got {', '.join(norms)}."
                )
            row: Any = [norms[name] for name in self.names]
        else:
            row = norms
            if np.shape(row) != (len(self.names),):
                raise ValueError(
                    f"norms must have one entry for each of {len(self.names)} layers; got the "
                    f"shape {np.shape(row)}."
                )
        last = self._steps[-1] if self._steps else -1
        self._steps.append(last + 1 if step is None else int(step))
        # Copied: the caller may donate its arrays, or write into them.
        self._rows.append(jax.tree.map(_copied, row))

    @property
    def steps(self) -> np.ndarray:
        """i64[T], the steps.

        >>> from lsam_jax import diagnostics
        >>> diagnostics.NormRecorder(["w"]).steps
        array([], dtype=int64)
        """
        return np.array(self._steps, np.int64)

    @property
    def norms(self) -> np.ndarray:
        """f32[T, L], a row for each step.

        >>> from lsam_jax import diagnostics
        >>> diagnostics.NormRecorder(["w"]).norms.shape
        (0, 1)
        """
        # Taken off the device here, once, and kept: thousands of small buffers would stay on it.
        self._rows = list(np.array(jax.device_get(self._rows), np.float32))
        return np.array(self._rows, np.float32).reshape(-1, len(self.names))


def _copied(x: Any) -> Any:
    return jnp.copy(x) if isinstance(x, jax.Array) else np.array(x)
