"""The empirical Fisher information, and the mask that Sparse SAM makes of it."""

from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax.arrays import promotion
from lsam_jax.devices.shardings import lay_like
from lsam_jax.engine.auxiliary import loss_of
from lsam_jax.layers.partition import partition
from lsam_jax.losses import PerSample
from lsam_jax.transform.method import state_of
from lsam_jax.transform.state import SamState
from lsam_jax.transform.transform import SamTransformation


@promotion.usual(theirs=0)
def empirical_fisher(loss_fn: PerSample, params: Any, *args: Any, **kwargs: Any) -> Any:
    """The diagonal of the empirical Fisher: the mean over samples of the squared gradient.

    One gradient for each sample, one after the other, in the memory of one.

    Args:
      loss_fn: the loss, made by `per_sample`.
      params: the parameters.
      *args: further arguments of the loss, the samples among them.
      **kwargs: further keyword arguments of the loss.

    Returns:
      A tree like `params`.

    Raises:
      TypeError: if the loss is not made by `per_sample`.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.per_sample(lambda w, x: x @ w)
    >>> lsam.empirical_fisher(loss_fn, jnp.ones(2), jnp.asarray([[1.0, 2.0], [3.0, 0.0]])).tolist()
    [5.0, 2.0]
    """
    if not isinstance(loss_fn, PerSample):
        raise TypeError(
            "empirical_fisher needs the loss of each sample: pass lsam.per_sample(losses); got "
            f"{type(loss_fn).__name__}."
        )
    batch = loss_fn.at(*args, **kwargs)
    count = jax.eval_shape(lambda params: loss_of(batch.each(params)), params).shape[0]

    def add(total: Any, sample: jax.Array) -> tuple[Any, None]:
        def loss(params: Any) -> Any:
            # Where samples are dealt out to devices, each gets the same one.
            return jnp.mean(loss_of(batch.of(jnp.full(batch.parts, sample)).each(params)))

        g = jax.grad(loss)(params)
        return jax.tree.map(lambda t, d: t + d * d / count, total, g), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, jnp.arange(count))[0]


@promotion.usual
def refresh_mask(tx: SamTransformation, sam_state: SamState, scores: Any) -> SamState:
    """The state with a new mask: the weights of the largest scores are perturbed from now on.

    Args:
      tx: what `sparse_sam(...)` returns.
      sam_state: its state.
      scores: a tree like the parameters; `empirical_fisher` makes one.

    Returns:
      The state, to go on with.

    Raises:
      TypeError: if `tx` has no mask to be given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.ones(4), lambda w: jnp.sum(w**2) / 2
    >>> tx = lsam.sparse_sam(rho=2.0, sparsity=0.5)
    >>> sam_state = lsam.refresh_mask(tx, tx.init(w), scores=jnp.asarray([4.0, 1.0, 3.0, 2.0]))
    >>> lsam.value_and_grad(loss_fn, tx)(w, sam_state)[1].tolist()  # the first and third are moved
    [2.0, 1.0, 2.0, 1.0]
    """
    refresh = tx.recipe.perturb.refresh if isinstance(tx, SamTransformation) else None
    if refresh is None:
        raise TypeError(
            "tx must be what sparse_sam(...) returns, without dynamic: no other method has a mask "
            f"to be given; got {type(tx).__name__}."
        )
    layers = partition(scores, tx.recipe.layers)
    sam_state = state_of(tx.recipe, layers, scores, sam_state)
    mask = refresh(layers, layers.leaves(scores))
    mask = jax.tree.map(lay_like, mask, sam_state.memory.perturbation)
    return sam_state._replace(memory=sam_state.memory._replace(perturbation=mask))
