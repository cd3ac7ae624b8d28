"""Vision transformers as Flax Linen modules: with two new dense layers, and small ones.

The first, `ViT`, are those of Dosovitskiy et al., `An Image is Worth 16x16 Words
<https://arxiv.org/abs/2010.11929>`_: patches become tokens, a class token stands before them,
pre-normalisation encoder blocks follow, and the class token of the last layer normalisation is
the image's feature. The layer-wise SAM paper freezes all of that and trains two dense layers on
it. Those numbers of its recipe that it does not give, the width of the first dense layer and the
activation between them, are this module's choice.

Names in the parameter tree: ``backbone``, which `vit_weights.load_vit` fills, ``hidden`` and
``head``. Only the last two are trained: give `value_and_grad` the tree without `FROZEN`, and hand
the backbone to the loss as an argument. Then all of it lies before the first perturbed layer, and
runs once in a step.

GELU is the exact one, x Phi(x), as in the PyTorch versions of this network; the JAX code of the
original release takes the tanh approximation, which differs by less than 5e-4.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

FROZEN = ("backbone",)
"""Top-level names of the parameters that are not trained."""

NORM_EPSILON = 1e-6


def to_signed(images: jax.typing.ArrayLike) -> jax.Array:
    """Pixels 0 ... 255 as -1 ... 1, which the published weights were trained on.

    Returns:
        float32 of the same shape.

    Raises:
        TypeError: When the images are not uint8, so that their range is not known.
    """
    pixels = jnp.asarray(images)
    if pixels.dtype != jnp.uint8:
        raise TypeError(f"images have dtype {pixels.dtype}; pass uint8 pixels of 0 ... 255")
    return pixels.astype(jnp.float32) / 127.5 - 1.0


class EncoderBlock(nn.Module):
    """Self-attention, then two dense layers, each on a normalised input and with a shortcut.

    The first dense layer is four times as wide as a token.

    Args:
        heads: Of the attention.
        dtype: Of the computation; parameters are float32.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [N, T, D] to [N, T, D]."""
        norm = partial(nn.LayerNorm, epsilon=NORM_EPSILON, dtype=self.dtype)
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            # Half precision would leave the attention weights two or three digits.
            force_fp32_for_softmax=jnp.finfo(self.dtype).bits < 32,
            name="attention",
        )
        x = x + attention(norm(name="norm1")(x))
        y = nn.Dense(4 * x.shape[-1], dtype=self.dtype, name="mlp1")(norm(name="norm2")(x))
        y = nn.gelu(y, approximate=False)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp2")(y)


class Backbone(nn.Module):
    """Everything before the new dense layers; it has no dropout, so it has no training mode.

    Args:
        patch_size: Height and width of a patch; it divides those of the image.
        width: Of the tokens.
        depth: Number of encoder blocks.
        heads: As in `EncoderBlock`.
        dtype: Of the computation; parameters are float32.
    """

    patch_size: int
    width: int
    depth: int
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Features [N, width] of images [N, S, S, 3] in -1 ... 1."""
        patch = (self.patch_size, self.patch_size)
        patches = nn.Conv(
            self.width, patch, strides=patch, padding="VALID", dtype=self.dtype, name="patches"
        )(images)
        x = patches.reshape(len(images), -1, self.width)
        first = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        first = jnp.broadcast_to(first, (len(images), 1, self.width)).astype(x.dtype)
        x = jnp.concatenate([first, x], axis=1)
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width)
        )
        x = x + positions.astype(x.dtype)
        for index in range(self.depth):
            x = EncoderBlock(self.heads, self.dtype, name=f"block{index}")(x)
        # Normalised one by one, so the other tokens need not be.
        return nn.LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype, name="norm")(x[:, 0])


class ViT(nn.Module):
    """A vision transformer with two new dense layers and a ReLU between them.

    Args:
        patch_size: As in `Backbone`.
        image_size: Height and width that images are scaled to first, bilinearly.
        width: As in `Backbone`.
        depth: As in `Backbone`.
        heads: As in `Backbone`.
        hidden: Width of the first new dense layer.
        num_classes: Outputs of the second.
        dtype: Of the computation; parameters and logits are float32.
    """

    patch_size: int = 16
    image_size: int = 224
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 768
    num_classes: int = 100
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits [N, num_classes] of images [N, H, W, 3] in -1 ... 1, see `to_signed`.

        Both modes are the same: nothing here is random, and nothing keeps statistics.

        Raises:
            TypeError: When the images are not floating point.
            ValueError: When sizes do not fit together.
        """
        self._check(images)
        size = (len(images), self.image_size, self.image_size, 3)
        if images.shape != size:
            images = jax.image.resize(images, size, "bilinear")
        sizes = self.width, self.depth, self.heads
        features = Backbone(self.patch_size, *sizes, self.dtype, name="backbone")(images)
        y = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(features))
        return nn.Dense(self.num_classes, name="head")(y.astype(jnp.float32))

    def _check(self, images: jax.Array) -> None:
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images have dtype {images.dtype}; pass to_signed(images)")
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images have shape {images.shape}; pass [N, H, W, 3]")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")


class SmallViT(nn.Module):
    """A vision transformer that is trained whole, for small images.

    Args:
        patch_size: As in `Backbone`.
        width: As in `Backbone`.
        depth: As in `Backbone`.
        heads: As in `Backbone`.
        num_classes: Outputs.
        dtype: Of the computation; parameters and logits are float32.
    """

    patch_size: int = 2
    width: int = 64
    depth: int = 3
    heads: int = 4
    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits [N, num_classes] of images [N, S, S, C]; both modes are the same.

        Raises:
            ValueError: When the heads do not divide the width.
        """
        if self.width % self.heads:
            raise ValueError(
                f"width={self.width} must be a multiple of the {self.heads} heads of vit_tiny"
            )
        sizes = self.width, self.depth, self.heads
        features = Backbone(self.patch_size, *sizes, self.dtype, name="backbone")(images)
        return nn.Dense(self.num_classes, name="head")(features.astype(jnp.float32))


vit_tiny = SmallViT
"""Three blocks of width 64 on patches of 2x2."""

vit_b16 = ViT
"""The paper's ViT-B/16: 85.8 million parameters in the backbone, 0.67 million in two new kernels
and their biases for 100 classes."""
