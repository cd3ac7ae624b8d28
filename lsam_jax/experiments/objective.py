"""The loss that is trained, and the variables that training starts from.

Both are values: equal models and settings are equal arguments to `jax.jit`, so the methods of a
comparison share what does not depend on the method, compiled once.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lsam_jax.experiments.data import Split, normalise


class Aux(NamedTuple):
    """What the clean pass gives beside the loss.

    Attributes:
        batch_stats: Running statistics that have seen the batch.
        accuracy: f32[], share of right answers on the batch as it was trained on.
    """

    batch_stats: Any
    accuracy: jax.Array


@dataclasses.dataclass(frozen=True)
class TrainingLoss:
    """Mean cross-entropy with label smoothing, in training mode.

    Called with ``(params, batch_stats, frozen, batch, key)`` it returns ``(loss, Aux)``.

    Args:
        model: A Flax module of images and `train`.
        preprocess: uint8 images to the floats that the model takes, on the device.
        smoothing: Share of the target that is spread over all classes.
        augment: ``augment(images, key)`` on the uint8 images, see `Dataset.augment`.
        accumulate: In how many equal parts, one after the other, the batch goes through the
            model (`optax.microbatching`), so that one part's activations are in memory at a time;
            they are computed once more for the gradient. Without batch normalisation and dropout
            the loss is that of the whole batch; with them each part has its own statistics and
            masks. The engine cannot cut a loop, so a layer-wise step then costs two gradients, and
            on XLA:CPU convolutions in loops are very slow: this is for memory, on a GPU.
    """

    model: Any
    preprocess: Callable[[Any], jax.Array]
    smoothing: float
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    accumulate: int = 1

    def __call__(
        self, params: Any, batch_stats: Any, frozen: Any, batch: Split, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The loss, and what else the clean pass gives."""
        images, labels = map(jnp.asarray, batch)
        if self.augment is not None:
            key, draws = jax.random.split(key)
            images = self.augment(images, draws)
        if self.accumulate == 1:
            return self._mean(params, batch_stats, frozen, images, labels, key)
        size = len(labels) // self.accumulate
        first_rows = jnp.arange(len(labels))

        def part(params: Any, images: Any, labels: Any, rows: Any) -> Any:
            own = jax.random.fold_in(key, rows[0])
            return self._mean(params, batch_stats, frozen, images, labels, own)

        in_parts = optax.microbatching.microbatch(
            jax.checkpoint(part),
            argnums=(1, 2, 3),
            microbatch_size=size,
            accumulator=optax.microbatching.AccumulationType.MEAN,
        )
        return in_parts(params, images, labels, first_rows)

    def _mean(
        self, params: Any, batch_stats: Any, frozen: Any, images: Any, labels: Any, key: Any
    ) -> tuple[jax.Array, Aux]:
        logits, updated = self.model.apply(
            variables(params, batch_stats, frozen),
            self.preprocess(images),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), self.smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        accuracy = jnp.mean(logits.argmax(axis=-1) == labels, dtype=jnp.float32)
        return loss, Aux(updated.get("batch_stats", {}), accuracy)


def variables(params: Any, batch_stats: Any, frozen: Any) -> dict[str, Any]:
    """What a Flax module is applied to; `frozen` has the parameters that are not trained."""
    return {"params": {**frozen, **params}, "batch_stats": batch_stats}


@partial(jax.jit, static_argnums=(0, 1))
def initial_variables(model: Any, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    """Parameters and batch statistics of a new model for images [H, W, C]."""
    return model.init(key, jnp.zeros((1, *image_shape), jnp.float32))


@dataclasses.dataclass(frozen=True)
class Normalise:
    """Preprocessing by a data set's own statistics; see `data.normalise`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Any) -> jax.Array:
        """Float32 images of uint8 ones."""
        return normalise(images, self.mean, self.std)
