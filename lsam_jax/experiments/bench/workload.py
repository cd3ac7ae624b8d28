"""What the benchmarks differentiate."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsam_jax.experiments.config.objective import TrainingLoss
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.models import registry

CLASSES = 10
LEAST = {"batch_size": 2, "image_size": 8, "rounds": 1, "devices": 1, "k": 1}
"""Of the settings of a benchmark that have these names."""


@dataclasses.dataclass(frozen=True)
class Size:
    """What a benchmark runs on.

    Args:
        batch_size: Images in a batch.
        image_size: Their height and width; they have three channels.

    Raises:
        ValueError: When a value makes no sense.
    """

    batch_size: int = 128
    image_size: int = 32

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name, least) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")


class Workload(NamedTuple):
    """A loss and its arguments, or their shapes.

    Attributes:
        loss: ``loss(params, *args) -> (loss, aux)``.
        params: What is trained.
        args: What else the loss reads, as arrays.
        batch_size: Examples in a batch, the first axis of those arguments that hold some.
        training: `loss`, where it is what a run trains on images and labels.
        layers: How the parameters are cut into layers.
    """

    loss: Callable[..., tuple[jax.Array, Any]]
    params: Any
    args: tuple[Any, ...]
    batch_size: int
    training: TrainingLoss | None = None
    layers: Any = "array"


def whole_network(
    name: str, size: Size, *, num_classes: int = CLASSES, channels: int = 3, **options: Any
) -> Workload:
    """A network in training mode on random images: all that training trains of it.

    Args:
        name: Of the model, see `registry.ARCHITECTURES`.
        size: Of the batch.
        num_classes: Of the head.
        channels: Of the images.
        **options: Of the model that differ from the preset's.
    """
    architecture = registry.preset(name)
    model = architecture(num_classes=num_classes, **options)
    images, labels = random_batch(size, num_classes, channels)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    params, frozen = architecture.split(variables["params"])
    batch = Split(images, labels)
    args = (variables.get("batch_stats", {}), frozen, batch, jax.random.key(1))
    loss = TrainingLoss(model, jnp.asarray, smoothing=0.0)
    return Workload(loss, params, args, size.batch_size, loss)


def frozen_backbone(name: str, size: Size) -> Workload:
    """A fixed network in evaluation mode under a head of two dense layers that is trained."""
    backbone = registry.preset(name)(num_classes=None)
    head = nn.Sequential([nn.Dense(256), nn.relu, nn.Dense(CLASSES)])
    images, labels = random_batch(size)
    variables = jax.jit(backbone.init)(jax.random.key(0), images[:1])
    features = jax.eval_shape(backbone.apply, variables, images)
    params = head.init(jax.random.key(1), jnp.zeros(features.shape, features.dtype))

    def loss(params: Any, variables: Any, images: Any, labels: Any) -> tuple[Any, Any]:
        logits = head.apply(params, backbone.apply(variables, images))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), logits

    return Workload(loss, params, (variables, images, labels), size.batch_size)


def random_batch(
    size: Size, num_classes: int = CLASSES, channels: int = 3
) -> tuple[jax.Array, jax.Array]:
    """Float32 images [N, S, S, C] and labels [N], the same on every call."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size.batch_size, size.image_size, size.image_size, channels))
    labels = rng.integers(0, num_classes, size.batch_size)
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels)
