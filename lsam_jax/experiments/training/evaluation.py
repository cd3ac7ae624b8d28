"""What is measured between epochs: the validation split, and the training loss's gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from lsam_jax.experiments.config.objective import TrainingLoss, augmented
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.distributed.devices import ONE_DEVICE, Layout

EVALUATION_BATCH = 512
PROBE_IMAGES = 256


def evaluate(
    loss_fn: TrainingLoss, split: Split, everything: Any, layout: Layout = ONE_DEVICE
) -> tuple[float, float]:
    """Mean cross-entropy and share of right answers, with running statistics.

    Every image counts once; the last batch is filled up with images that do not count, so that
    all batches have one shape.

    Args:
        loss_fn: Whose network.
        split: The images.
        everything: Of `objective.variables`.
        layout: On which devices.
    """
    count = len(split.labels)
    number = -(-count // EVALUATION_BATCH)
    each = -(-count // number)  # as equal as can be, so that little is computed for nothing
    size = -(-each // layout.devices) * layout.devices
    total = np.zeros(2)
    for start in range(0, count, size):
        chosen = np.arange(start, start + size)
        batch = Split(*(part[chosen % count] for part in split))
        rows = layout.rows((batch, chosen < count))
        total += np.asarray(_sums(loss_fn.model, loss_fn.preprocess, everything, *rows))
    return float(total[0] / count), float(total[1] / count)


class Probe(NamedTuple):
    """The gradient of the plain training loss.

    Attributes:
        gradient: A pytree like the trained parameters.
        norm: Over all of them.
        norms: Of each array, by path.
    """

    gradient: Any
    norm: float
    norms: dict[str, float]


def probe(
    loss_fn: TrainingLoss, train: Split, augment: Any, given: Any, layout: Layout = ONE_DEVICE
) -> Probe:
    """The gradient on the first images of the training split, the same in every call.

    Args:
        loss_fn: What is trained.
        train: The training split.
        augment: See `Dataset.augment`.
        given: What the loss takes before a batch: parameters, statistics, and what is not trained.
        layout: On which devices.
    """
    batch = layout.rows(Split(train.images[:PROBE_IMAGES], train.labels[:PROBE_IMAGES]))
    gradient, norms = _gradient(loss_fn, augment, given, batch)
    by_path = {path: float(norm) for path, norm in flatten_dict(norms, sep="/").items()}
    return Probe(gradient, float(np.linalg.norm(list(by_path.values()))), by_path)


@partial(jax.jit, static_argnums=(0, 1))
def _sums(
    model: Any,
    preprocess: Callable[[Any], jax.Array],
    everything: Any,
    batch: Split,
    counts: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    logits = model.apply(everything, preprocess(batch.images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    right = logits.argmax(axis=-1) == batch.labels
    return jnp.sum(losses, where=counts), jnp.sum(right, where=counts)


@partial(jax.jit, static_argnums=(0, 1))
def _gradient(loss_fn: TrainingLoss, augment: Any, given: Any, batch: Split) -> tuple[Any, Any]:
    batch, key = augmented(augment, batch, jax.random.key(0))
    grads, _ = jax.grad(loss_fn, has_aux=True)(*given, batch, key)
    return grads, jax.tree.map(lambda g: jnp.linalg.norm(g.ravel()), grads)
