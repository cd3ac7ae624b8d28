"""How much the loss rises within a small distance: what SAM minimises."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arguments import check_plain
from lsam_jax.arrays import promotion
from lsam_jax.diagnostics.batches import Loss, calls, mean, scalar
from lsam_jax.diagnostics.block import block
from lsam_jax.layers.partition import LayerSpec


class Ball(NamedTuple):
    """The loss at the centre of a ball, and where it is about highest inside.

    Attributes:
      clean: the loss at the parameters.
      loss: the loss at the distance `rho` along the gradient.
      rise: the second minus the first.

    >>> from lsam_jax import diagnostics
    >>> diagnostics.Ball(clean=1.0, loss=1.5, rise=0.5).rise
    0.5
    """

    clean: float
    loss: float
    rise: float


@promotion.usual
def sam_ball(
    loss_fn: Loss,
    params: Any,
    *args: Any,
    rho: float = 0.05,
    batches: Any = None,
    layer: str | None = None,
    layers: LayerSpec = "kernel",
) -> Ball:
    """The rise L(w + rho g / |g|) - L(w) of the loss L at the distance `rho` along its gradient g.

    That is the largest rise at this distance to first order: the sharpness of Foret et al.,
    `Sharpness-Aware Minimization <https://arxiv.org/abs/2010.01412>`_ (2021). Gradient and losses
    are those of all batches together. Where the gradient is 0, nothing is moved.

    Args:
      loss_fn: `loss_fn(params, *args)`, a real scalar. BatchNorm should use its running statistics
        and dropout be off.
      params: w.
      *args: further arguments of the loss.
      rho: the distance.
      batches: a sequence of batches of one shape; the loss is then the mean of
        `loss_fn(params, batch, *args)`. None if `args` have all of the data.
      layer: the one layer that is moved, by its name as `lsam_jax.layer_names` gives it; None for
        all parameters.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Returns:
      A `Ball`.

    Raises:
      ValueError: if there is no such layer, or `rho` or `batches` cannot serve.
      TypeError: if the loss is not a real scalar, or `rho` no number.

    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> loss_fn = lambda w: jnp.sum(w**2) / 2
    >>> found = diagnostics.sam_ball(loss_fn, jnp.array([3.0, 4.0]), rho=1.0)
    >>> round(found.clean, 4), round(found.loss, 4), round(found.rise, 4)  # 5**2 / 2, 6**2 / 2
    (12.5, 18.0, 5.5)
    """
    every = calls(args, batches)
    inside = block(params, layer, layers)
    check_plain("rho", rho, infinite=True)
    if not 0 < rho < np.inf:
        raise ValueError(f"rho must be positive and finite; got rho={rho!r}.")
    clean, gradient = mean(partial(value_and_gradient, loss_fn, params), every)
    ascent = inside.vector(gradient)
    norm = np.linalg.norm(ascent)
    ascent *= rho / norm if norm > 0 else 0.0
    perturbed = jax.tree.map(
        lambda x, d: (x + d).astype(jnp.result_type(x)), params, inside.tree(ascent)
    )
    loss = float(mean(partial(_loss, loss_fn, perturbed), every))
    return Ball(float(clean), loss, loss - float(clean))


@partial(jax.jit, static_argnums=0)
def value_and_gradient(loss_fn: Loss, params: Any, arguments: Any) -> tuple[jax.Array, Any]:
    """The loss and its gradient."""
    return jax.value_and_grad(lambda p: scalar(loss_fn, p, arguments))(params)


_loss = jax.jit(scalar, static_argnums=0)
