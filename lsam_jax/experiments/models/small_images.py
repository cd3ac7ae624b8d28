"""Convolutions to fewer pixels than their kernel has, as matrix products.

XLA takes the larger of image and kernel for the image. With a 3x3 kernel and 2x2 pixels that swaps
the two, in the pass forward or in the gradient by the image, and what is left on XLA:CPU is a
scalar loop, 20 times slower than the products: in a ResNet-8 of 8x8 images such loops took three
quarters of a training step.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp


def convolve(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, as `flax.linen.Conv` calls it for a layer without dilation.

    Args:
        images: [N, H, W, C].
        kernel: [h, w, C, D].
        strides: Of both directions.
        padding: Of `jax.lax.conv_general_dilated`; what is no name is left to it.
        **options: Likewise.

    Returns:
        [N, H', W', D].

    Example:
        >>> images, kernel = jnp.ones((1, 2, 2, 1)), jnp.ones((3, 3, 1, 1))
        >>> convolve(images, kernel, (1, 1), "SAME").ravel().tolist()
        [4.0, 4.0, 4.0, 4.0]
    """
    size, taps = images.shape[1:3], kernel.shape[:2]
    starts = _starts(size, taps, strides, padding) if isinstance(padding, str) else None
    if starts is None or math.prod(map(len, starts)) >= math.prod(taps):
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)
    return _as_products(images, kernel, starts, options.get("precision"))


def _starts(
    size: Sequence[int], taps: Sequence[int], strides: Sequence[int], padding: str
) -> list[range]:
    """For both directions, where the kernel begins over the image for each pixel of the output."""
    margins = jax.lax.padtype_to_pads(size, taps, strides, padding)
    return [
        range(-low, pixels + high - width + 1, stride)
        for (low, high), pixels, width, stride in zip(margins, size, taps, strides, strict=True)
    ]


def _as_products(
    images: jax.Array, kernel: jax.Array, starts: Sequence[range], precision: Any
) -> jax.Array:
    """One product for each pixel of the output, of the part of the image that its kernel meets."""
    count, channels = len(images), kernel.shape[-1]

    def pixel(*where: int) -> jax.Array:
        met = [
            (max(start, 0), min(start + width, pixels), start)
            for start, pixels, width in zip(where, images.shape[1:3], kernel.shape[:2], strict=True)
        ]
        rows, columns = (slice(low, high) for low, high, _ in met)
        down, right = (slice(low - start, high - start) for low, high, start in met)
        weights = kernel[down, right].reshape(-1, channels)
        part = images[:, rows, columns].reshape(count, -1)
        return jnp.matmul(part, weights, precision=precision)

    out = jnp.stack([pixel(*where) for where in product(*starts)], axis=1)
    return out.reshape(count, *map(len, starts), channels)
