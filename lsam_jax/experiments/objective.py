"""The loss that is trained, and the variables that training starts from.

Both are values: equal models and settings are equal arguments to `jax.jit`, so the methods of a
comparison share what does not depend on the method, compiled once.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lsam_jax.experiments.data import Split, normalise


@dataclasses.dataclass(frozen=True)
class TrainingLoss:
    """Mean cross-entropy with label smoothing, in training mode.

    Called with ``(params, batch_stats, batch, key)`` it returns ``(loss, new batch_stats)``.

    Args:
        model: A Flax module of images and `train`.
        mean: As `data.normalise` takes it.
        std: Likewise.
        smoothing: Share of the target that is spread over all classes.
        augment: ``augment(images, key)`` on the uint8 images, see `Dataset.augment`.
    """

    model: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    smoothing: float
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    def __call__(
        self, params: Any, batch_stats: Any, batch: Split, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The loss, and batch statistics that have seen the batch."""
        images = jnp.asarray(batch.images)
        if self.augment is not None:
            key, draws = jax.random.split(key)
            images = self.augment(images, draws)
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            normalise(images, self.mean, self.std),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        targets = optax.smooth_labels(
            jax.nn.one_hot(batch.labels, logits.shape[-1]), self.smoothing
        )
        return optax.softmax_cross_entropy(logits, targets).mean(), updated["batch_stats"]


@partial(jax.jit, static_argnums=(0, 1))
def initial_variables(model: Any, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    """Parameters and batch statistics of a new model for images [H, W, C]."""
    return model.init(key, jnp.zeros((1, *image_shape), jnp.float32))
