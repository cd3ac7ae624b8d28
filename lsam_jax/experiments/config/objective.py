"""The loss that is trained, and the variables that training starts from.

Both are values: equal models and settings are equal arguments to `jax.jit`, so the methods of a
comparison share what does not depend on the method, compiled once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lsam_jax.experiments.data.split import Split


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
    accumulate: int = 1

    def __call__(
        self, params: Any, batch_stats: Any, frozen: Any, batch: Split, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The loss, and what else the clean pass gives."""
        images, labels = map(jnp.asarray, batch)
        if self.accumulate == 1:
            losses, aux = self.each(params, batch_stats, frozen, Split(images, labels), key)
            return losses.mean(), aux
        size = len(labels) // self.accumulate
        first_rows = jnp.arange(len(labels))

        def part(params: Any, images: Any, labels: Any, rows: Any) -> Any:
            own = jax.random.fold_in(key, rows[0])
            losses, aux = self.each(params, batch_stats, frozen, Split(images, labels), own)
            return losses.mean(), aux

        in_parts = optax.microbatching.microbatch(
            jax.checkpoint(part),
            argnums=(1, 2, 3),
            microbatch_size=size,
            accumulator=optax.microbatching.AccumulationType.MEAN,
        )
        return in_parts(params, images, labels, first_rows)

    def each(
        self, params: Any, batch_stats: Any, frozen: Any, batch: Split, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The loss of each image, f32[N], and what else the pass gives."""
        return self.judged(self.outputs(params, batch_stats, frozen, batch, key), batch)

    def outputs(
        self, params: Any, batch_stats: Any, frozen: Any, batch: Split, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Logits [N, classes], and the variables that the pass updates."""
        return self.model.apply(
            variables(params, batch_stats, frozen),
            self.preprocess(batch.images),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )

    def of_outputs(
        self, outputs: Any, batch_stats: Any, frozen: Any, batch: Split, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The mean loss, and what else the pass gives, of `outputs`."""
        losses, aux = self.judged(outputs, batch)
        return losses.mean(), aux

    def judged(self, outputs: Any, batch: Split) -> tuple[jax.Array, Aux]:
        """The loss of each image, f32[N], and what else the pass gives, of `outputs`."""
        logits, updated = outputs
        targets = jax.nn.one_hot(batch.labels, logits.shape[-1])
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, self.smoothing))
        accuracy = jnp.mean(logits.argmax(axis=-1) == batch.labels, dtype=jnp.float32)
        return losses, Aux(updated.get("batch_stats", {}), accuracy)


def augmented(
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None, batch: Split, key: jax.Array
) -> tuple[Split, jax.Array]:
    """A batch as it is trained on, and the key for what else is random in the loss.

    Args:
        augment: See `Dataset.augment`; None leaves both as they are.
        batch: uint8 images and labels.
        key: Same key, same images, so that all passes of a step see the same.
    """
    if augment is None:
        return batch, key
    key, draws = jax.random.split(key)
    return Split(augment(jnp.asarray(batch.images), draws), batch.labels), key


def variables(params: Any, batch_stats: Any, frozen: Any) -> dict[str, Any]:
    """What a Flax module is applied to; `frozen` has the parameters that are not trained."""
    return {"params": {**frozen, **params}, "batch_stats": batch_stats}


def initial_variables(model: Any, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    """Parameters and batch statistics of a new model for images [H, W, C]."""
    draw = _drawn if isinstance(key, jax.core.Tracer) else _compiled_quickly
    return draw(model, image_shape, key)


def _drawn(model: Any, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    return model.init(key, jnp.zeros((1, *image_shape), jnp.float32))


# It runs once. All of LLVM's optimizations give the same numbers, and take five times as long;
# JAX takes options outside of other functions alone.
_compiled_quickly = jax.jit(
    _drawn, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 1}
)
