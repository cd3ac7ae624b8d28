"""Random crops and flips from a key, and standardisation, on the device.

Images stay uint8 until they are standardised, and both passes of a SAM step see the same draw
because both get the same key. The recipe is that of He et al., `Deep Residual Learning for Image
Recognition <https://arxiv.org/abs/1512.03385>`_, section 4.2: pad by 4 zeros, crop to the old
size, flip every other image.
"""

import math

import jax
import jax.numpy as jnp

PAD = 4


def crop_and_flip(images: jax.Array, key: jax.Array, pad: int = PAD) -> jax.Array:
    """Pads by zeros, crops at random, and mirrors about half of the images.

    Args:
        images: [N, H, W, C] of any dtype.
        key: Same key, same result.
        pad: By how much on each side.

    Returns:
        Images of the same shape and dtype.
    """
    offsets, mirrored = draw(key, len(images), pad)
    return flip(crop(images, offsets, pad), mirrored)


def draw(key: jax.Array, count: int, pad: int) -> tuple[jax.Array, jax.Array]:
    """What happens to each of `count` images.

    Args:
        key: Of the draw.
        count: How many images there are.
        pad: Offsets are drawn evenly from 0 ... 2 * `pad`.

    Returns:
        Offsets i32[N, 2] of the crop in the padded image, rows first; mirrored or not, bool[N].
    """
    crops, flips = jax.random.split(key)
    offsets = jax.random.randint(crops, (count, 2), 0, 2 * pad + 1)
    return offsets, jax.random.bernoulli(flips, shape=(count,))


def crop(images: jax.Array, offsets: jax.Array, pad: int) -> jax.Array:
    """Cuts each image, padded by `pad` zeros on all sides, to its old size at its offset."""
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def flip(images: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Mirrors left and right where `mirrored` says so."""
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def standardise(images: jax.typing.ArrayLike) -> jax.Array:
    """Every image minus its mean, by its deviation, over all its pixels and channels.

    The deviation is at least that of one pixel that differs by 1, so that a blank image gives
    zeros.

    Args:
        images: [N, H, W, C], in steps of 1 as in uint8.

    Returns:
        f32[N, H, W, C].
    """
    values = jnp.asarray(images, jnp.float32)
    axes = (1, 2, 3)
    centred = values - values.mean(axis=axes, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(centred), axis=axes, keepdims=True))
    return centred / jnp.maximum(deviation, math.prod(values.shape[1:]) ** -0.5)
