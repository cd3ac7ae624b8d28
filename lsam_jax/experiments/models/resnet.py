"""Residual networks as Flax Linen modules.

One family, `ResNet`, in the post-activation form (convolution, batch normalisation, ReLU) of
He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_,
with the details of the recipe that the layer-wise SAM paper trained:

1. The first block of every stage has a 1x1 convolution on its shortcut, in stage 1 too, where
   the shape does not ask for one. ResNet-20 so has 23 kernels, as in the paper's Figure 5.
2. Convolutions have no bias; the batch normalisation behind each has one.
3. The last batch-normalisation scale of a block starts at zero, so a new block is its shortcut;
   not so in the WRN-16.

Names in the parameter tree say where an array stands: ``stem``, ``block0/conv1``,
``block0/conv2``, ``block0/shortcut``, ..., ``head``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsam_jax.experiments.models.small_images import convolve


class Block(nn.Module):
    """Two 3x3 convolutions around which a shortcut leads.

    Args:
        width: Channels of both convolutions.
        stride: Stride of the first convolution and of the shortcut.
        project: Whether a 1x1 convolution stands on the shortcut.
        dropout: Rate between the two convolutions.
        norm: Batch normalisation with momentum, epsilon and mode filled in.
        zero_init: Whether the last scale of the residual branch starts at zero.
        dtype: Of the computation; parameters are float32.
    """

    width: int
    stride: int
    project: bool
    dropout: float
    norm: Callable[..., nn.Module]
    zero_init: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, width]."""
        conv = partial(
            nn.Conv, self.width, use_bias=False, dtype=self.dtype, conv_general_dilated=convolve
        )
        last_scale = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = conv(kernel_size=(3, 3), strides=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        if self.dropout:
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = conv(kernel_size=(3, 3), name="conv2")(y)
        y = self.norm(name="norm2", scale_init=last_scale)(y)
        if self.project:
            x = conv(kernel_size=(1, 1), strides=self.stride, name="shortcut")(x)
            x = self.norm(name="norm_shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network for small images.

    Args:
        stages: Number of blocks of each stage; every stage but the first halves the image and
            doubles the channels.
        width: Channels of the first stage.
        num_classes: Outputs of the head; None leaves the head off.
        stem_width: Channels of the first convolution; None for `width`.
        norm_momentum: How much of the old running statistics a batch leaves.
        norm_epsilon: Added to the variance.
        zero_init: Whether the last scale of every block starts at zero.
        dropout: Rate between the two convolutions of a block.
        dtype: Of the computation; parameters and logits are float32.
    """

    stages: tuple[int, ...] = (3, 3, 3)
    width: int = 16
    num_classes: int | None = 10
    stem_width: int | None = None
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    zero_init: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits [N, num_classes] of images [N, H, W, C]; pooled features without a head.

        With `train` the batch's own statistics are used, and the running ones are updated in
        the collection ``batch_stats``.
        """
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            dtype=self.dtype,
        )
        stem_width = self.width if self.stem_width is None else self.stem_width
        x = nn.Conv(stem_width, (3, 3), use_bias=False, dtype=self.dtype, name="stem")(images)
        x = nn.relu(norm(name="norm_stem")(x))
        index = 0
        for stage, blocks in enumerate(self.stages):
            for first in [True] + [False] * (blocks - 1):
                x = Block(
                    width=self.width * 2**stage,
                    stride=2 if first and stage > 0 else 1,
                    project=first,
                    dropout=self.dropout,
                    norm=norm,
                    zero_init=self.zero_init,
                    dtype=self.dtype,
                    name=f"block{index}",
                )(x, train)
                index += 1
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        return x if self.num_classes is None else nn.Dense(self.num_classes, name="head")(x)


resnet8 = partial(ResNet, stages=(1, 1, 1), norm_momentum=0.9)
"""For 8x8 images; short runs, so the running statistics follow faster than the paper's."""

resnet20 = ResNet
"""The paper's ResNet-20: 23 kernels, 0.27 million parameters."""

_wide = partial(ResNet, stem_width=16, norm_epsilon=1e-5, dropout=0.3)

wrn28_10 = partial(_wide, stages=(4, 4, 4), width=160)
"""The paper's WRN-28-10: 29 kernels, 36.5 million parameters."""

wrn16_2 = partial(_wide, stages=(2, 2, 2), width=32, zero_init=False)
"""WRN-16-2, as the paper's text names its network for Flowers102: 17 kernels."""

wrn16_8 = partial(wrn16_2, width=128)
"""WRN-16-8, as the author's public code has it: 17 kernels."""
