"""What is measured between epochs: the test split, and the gradient of the training loss."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsam_jax.experiments.data import Dataset, Split, normalise
from lsam_jax.experiments.objective import TrainingLoss

EVALUATION_BATCH = 512
PROBE_IMAGES = 256


def evaluate(model: Any, data: Dataset, params: Any, batch_stats: Any) -> tuple[float, float]:
    """Mean cross-entropy and share of right answers on the test split, with running statistics.

    Every image counts once; the last batch is filled up with images that do not count, so that
    all batches have one shape.
    """
    count = len(data.validation.labels)
    size = min(EVALUATION_BATCH, count)
    variables = {"params": params, "batch_stats": batch_stats}
    total = np.zeros(2)
    for start in range(0, count, size):
        chosen = np.arange(start, start + size)
        batch = Split(*(part[chosen % count] for part in data.validation))
        total += np.asarray(_sums(model, data.mean, data.std, variables, batch, chosen < count))
    return float(total[0] / count), float(total[1] / count)


def gradient_norms(
    loss_fn: TrainingLoss, train: Split, params: Any, batch_stats: Any
) -> tuple[float, dict[str, float]]:
    """Norm of the plain training loss's gradient, over all parameters and of each array.

    The gradient is taken on the first images of the training split, the same in every call.
    """
    batch = Split(train.images[:PROBE_IMAGES], train.labels[:PROBE_IMAGES])
    leaves = jax.tree_util.tree_leaves_with_path(_norms(loss_fn, params, batch_stats, batch))
    by_path = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(norm) for path, norm in leaves
    }
    return float(np.linalg.norm(list(by_path.values()))), by_path


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sums(
    model: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    variables: Any,
    batch: Split,
    counts: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    logits = model.apply(variables, normalise(batch.images, mean, std))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    right = logits.argmax(axis=-1) == batch.labels
    return jnp.sum(losses, where=counts), jnp.sum(right, where=counts)


@partial(jax.jit, static_argnums=0)
def _norms(loss_fn: TrainingLoss, params: Any, batch_stats: Any, batch: Split) -> Any:
    grads, _ = jax.grad(loss_fn, has_aux=True)(params, batch_stats, batch, jax.random.key(0))
    return jax.tree.map(lambda g: jnp.linalg.norm(g.ravel()), grads)
