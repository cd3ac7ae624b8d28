"""The trace of the Hessian, by random probes."""

from typing import Any, NamedTuple

import jax
import numpy as np

from lsam_jax.arrays import promotion
from lsam_jax.diagnostics.batches import Loss, calls
from lsam_jax.diagnostics.block import block
from lsam_jax.diagnostics.hessian import on_block
from lsam_jax.layers.partition import LayerSpec


class Trace(NamedTuple):
    """An estimate of a trace.

    Attributes:
      mean: the estimate.
      standard_error: of the mean, from how the probes differ.
      probes: f64[N], what each of them gave.

    >>> import numpy as np
    >>> from lsam_jax import diagnostics
    >>> diagnostics.Trace(2.0, 0.5, np.array([1.5, 2.5])).mean
    2.0
    """

    mean: float
    standard_error: float
    probes: np.ndarray


@promotion.usual
def hessian_trace(
    loss_fn: Loss,
    params: Any,
    *args: Any,
    key: jax.Array,
    probes: int = 16,
    batches: Any = None,
    layer: str | None = None,
    layers: LayerSpec = "kernel",
) -> Trace:
    """Hutchinson's estimate of the Hessian's trace, of the whole network or of one layer.

    The mean of z'Hz over vectors z of random signs (Rademacher), whose expectation is the trace.
    Exact, with an error of 0, for a diagonal Hessian.

    Args:
      loss_fn: `loss_fn(params, *args)`, a real scalar. BatchNorm should use its running statistics
        and dropout be off.
      params: where.
      *args: further arguments of the loss.
      key: a random key, for the probes.
      probes: N, how many, at least 2; the error falls with its square root.
      batches: a sequence of batches of one shape; the loss is then the mean of
        `loss_fn(params, batch, *args)`. None if `args` have all of the data.
      layer: the layer's name, as `lsam_jax.layer_names` gives it; None for all parameters.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Returns:
      A `Trace`.

    Raises:
      ValueError: if there is no such layer, or `probes` or `batches` cannot serve.
      TypeError: if the loss is not a real scalar.
      FloatingPointError: if the Hessian is not finite.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> loss_fn = lambda p: jnp.sum(jnp.array([[1.0, 2.0, 4.0]]) * p["w"] ** 2) / 2
    >>> params, key = {"w": jnp.ones((1, 3))}, jax.random.key(0)
    >>> found = diagnostics.hessian_trace(loss_fn, params, key=key, probes=2)
    >>> found.mean, found.standard_error
    (7.0, 0.0)
    """
    every = calls(args, batches)
    inside = block(params, layer, layers)
    if isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < 2:
        raise ValueError(
            f"probes must be a whole number of at least 2, or there is no error to state; got "
            f"probes={probes!r}."
        )
    product = on_block(loss_fn, params, inside, every)
    values = []
    for one in jax.random.split(key, probes):
        signs = np.asarray(jax.random.rademacher(one, (inside.size,)), np.float64)
        values.append(signs @ product(signs))
    error = np.std(values, ddof=1) / np.sqrt(probes)
    return Trace(float(np.mean(values)), float(error), np.array(values))
