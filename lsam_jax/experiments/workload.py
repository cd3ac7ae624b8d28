"""What the benchmark differentiates, and which layers it perturbs."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsam_jax.experiments import models

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Size:
    """What a benchmark runs on.

    Args:
        model: Name of the model, see `models.PRESETS`.
        batch_size: Images in a batch.
        image_size: Their height and width; they have three channels.

    Raises:
        ValueError: When a value makes no sense.
    """

    model: str = "resnet20"
    batch_size: int = 128
    image_size: int = 32

    def __post_init__(self) -> None:
        models.preset(self.model)
        self._at_least(batch_size=2, image_size=8)

    def _at_least(self, **bounds: int) -> None:
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")


class Workload(NamedTuple):
    """A loss and its arguments.

    Attributes:
        loss: ``loss(params, *args) -> (loss, aux)``.
        params: What is trained.
        args: What else the loss reads, as arrays.
    """

    loss: Callable[..., tuple[jax.Array, Any]]
    params: Any
    args: tuple[Any, ...]


def whole_network(model_name: str, batch_size: int, image_size: int) -> Workload:
    """A residual network in training mode on random images, all of it trained."""
    model = models.preset(model_name)(num_classes=CLASSES)
    images, labels = random_batch(batch_size, image_size)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])

    def loss(params: Any, stats: Any, images: Any, labels: Any, key: Any) -> tuple[Any, Any]:
        logits, updated = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return cross_entropy(logits, labels), updated["batch_stats"]

    args = (variables["batch_stats"], images, labels, jax.random.key(1))
    return Workload(loss, variables["params"], args)


def frozen_backbone(model_name: str, batch_size: int, image_size: int) -> Workload:
    """A fixed network in evaluation mode under a head of two dense layers that is trained."""
    backbone = models.preset(model_name)(num_classes=None)
    head = nn.Sequential([nn.Dense(256), nn.relu, nn.Dense(CLASSES)])
    images, labels = random_batch(batch_size, image_size)
    variables = jax.jit(backbone.init)(jax.random.key(0), images[:1])
    features = jax.eval_shape(backbone.apply, variables, images)
    params = head.init(jax.random.key(1), jnp.zeros(features.shape, features.dtype))

    def loss(params: Any, variables: Any, images: Any, labels: Any) -> tuple[Any, Any]:
        logits = head.apply(params, backbone.apply(variables, images))
        return cross_entropy(logits, labels), logits

    return Workload(loss, params, (variables, images, labels))


def selections(model_name: str) -> dict[str, tuple[str, ...]]:
    """The perturbed sets of the benchmark, by what to call them, as paths of kernels.

    With ResNet-20 they are: the last convolution and the head; three middle convolutions of
    stage 3 and the head, the usual choice in a run on CIFAR-10 with k = 4 after a few hundred
    steps; the stem, two convolutions of stage 3 and the head, which happens early.
    """
    stages = models.preset(model_name)().stages
    blocks = range(sum(stages[:-1]), sum(stages))
    convolutions = [f"block{b}/conv{c}/kernel" for b in blocks for c in (1, 2)]
    middle = convolutions[1:4]
    last, head, stem = convolutions[-1], "head/kernel", "stem/kernel"
    stage = len(stages)
    return {
        "last convolution, head": (last, head),
        f"{len(middle)} conv. of stage {stage}, head": (*middle, head),
        f"stem, {len(middle[:2])} conv. of stage {stage}, head": (stem, *middle[:2], head),
    }


def random_batch(batch_size: int, image_size: int) -> tuple[jax.Array, jax.Array]:
    """Float32 images [N, S, S, 3] and labels [N], the same on every call."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, image_size, image_size, 3))
    return jnp.asarray(images, jnp.float32), jnp.asarray(rng.integers(0, CLASSES, batch_size))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
