"""Convolutions to fewer pixels than their kernel has, as matrix products.

XLA takes the larger of image and kernel for the image. With a 3x3 kernel and 2x2 pixels that swaps
the two, in the pass forward or in the gradient by the image, and what is left on XLA:CPU is a
scalar loop, 30 times slower than the product: in a ResNet-8 of 8x8 images such loops took three
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
        padding: Of `jax.lax.conv_general_dilated`.
        **options: Likewise.

    Returns:
        [N, H', W', D].

    Example:
        >>> images, kernel = jnp.ones((1, 2, 2, 1)), jnp.ones((3, 3, 1, 1))
        >>> convolve(images, kernel, (1, 1), "SAME").ravel().tolist()
        [4.0, 4.0, 4.0, 4.0]
    """
    size, taps = images.shape[1:3], kernel.shape[:2]
    named = isinstance(padding, str)
    margins = jax.lax.padtype_to_pads(size, taps, strides, padding) if named else padding
    starts = [
        range(-low, pixels + high - width + 1, stride)
        for (low, high), pixels, width, stride in zip(margins, size, taps, strides, strict=True)
    ]
    if math.prod(map(len, starts)) >= math.prod(taps):
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)
    return _as_product(images, kernel, starts, options.get("precision"))


def _as_product(
    images: jax.Array, kernel: jax.Array, starts: Sequence[range], precision: Any
) -> jax.Array:
    """For each pixel of the output, the kernel cut and filled up with zeros to the whole image."""
    zero = jnp.zeros((), kernel.dtype)

    def over_image(*where: int) -> jax.Array:
        fill = [
            (start, pixels - start - width, 0)
            for start, pixels, width in zip(where, images.shape[1:3], kernel.shape[:2], strict=True)
        ]
        return jax.lax.pad(kernel, zero, [*fill, (0, 0, 0), (0, 0, 0)])

    parts = [over_image(*where).reshape(-1, kernel.shape[-1]) for where in product(*starts)]
    matrix = jnp.concatenate(parts, axis=1)
    out = jnp.matmul(images.reshape(len(images), -1), matrix, precision=precision)
    return out.reshape(len(images), *map(len, starts), -1)
