"""Flax Linen: a `TrainState` whose `apply_gradients` hands the loss on to the optimizer."""

from collections.abc import Callable
from typing import Any

import optax
from flax.training import train_state


class TrainState(train_state.TrainState, kw_only=True):  # type: ignore[call-arg]  # Flax: unseen
    """Flax's `TrainState`, for a SAM method in either of its two places.

    In the optimizer's chain, `apply_gradients(grads=grads, value_fn=loss_of_params)` (Flax's own
    drops what it does not know). Before the optimizer, `lsam_jax.value_and_grad` on
    `state.params` and `state.sam_state`, which saves a forward pass, since loss and aux come with
    the gradients; then `apply_gradients(grads=grads, sam_state=sam_state)`.

    Attributes:
      batch_stats: BatchNorm's running statistics, if there are any.
      sam_state: the state of a SAM method that is not in the chain: `sam.init(params)`.

    >>> import jax, jax.numpy as jnp, optax
    >>> import lsam_jax as lsam
    >>> from lsam_jax.integrations.linen import TrainState
    >>> optimizer = optax.chain(lsam.sam(0.1), optax.sgd(0.5))
    >>> params = {"w": jnp.ones((1, 1))}
    >>> state = TrainState.create(apply_fn=None, params=params, tx=optimizer)
    >>> loss_of_params = lambda params: jnp.sum(params["w"] ** 2)
    >>> grads = jax.grad(loss_of_params)(state.params)
    >>> state = state.apply_gradients(grads=grads, value_fn=loss_of_params)
    >>> round(float(state.params["w"][0, 0]), 6)  # 1 - 0.5 * 2 * (1 + 0.1)
    -0.1
    """

    batch_stats: Any = None
    sam_state: Any = None

    def apply_gradients(
        self,
        *,
        grads: Any,
        value_fn: Callable[..., Any] | None = None,
        grad_fn: Callable[..., Any] | None = None,
        ascent_fn: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> "TrainState":
        """Flax's `apply_gradients`, that also calls the optimizer with `value_fn` or `grad_fn`.

        Args:
          grads: gradients, a pytree like `params`.
          value_fn: `value_fn(params) -> loss`, without aux.
          grad_fn: `grad_fn(params) -> gradient`, for an optimizer that takes it instead.
          ascent_fn: `ascent_fn(params) -> loss`, that of a part of the batch, beside `value_fn`.
          **kwargs: fields to replace, such as `batch_stats`.
        """
        given = {"value_fn": value_fn, "grad_fn": grad_fn, "ascent_fn": ascent_fn}
        extra = {name: fun for name, fun in given.items() if fun is not None}
        tx = optax.with_extra_args_support(self.tx)

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            return tx.update(updates, state, params, **extra)

        # For this one call Flax sees an optimizer that knows the rest by itself.
        knowing = self.replace(tx=optax.GradientTransformation(self.tx.init, update))
        after = super(TrainState, knowing).apply_gradients(grads=grads, **kwargs)
        return after.replace(tx=kwargs.get("tx", self.tx))
