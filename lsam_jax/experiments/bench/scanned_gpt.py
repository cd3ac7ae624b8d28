"""A transformer for language under one scan over its blocks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Body = Callable[[Array, Any], tuple[Array, None]]


class Shape(NamedTuple):
    """Its sizes.

    Attributes:
        blocks: How many.
        width: Of a token.
        heads: Of the attention.
        tokens: Of a text.
        batch: Texts in a batch.
        words: In the vocabulary.
    """

    blocks: int = 12
    width: int = 192
    heads: int = 3
    tokens: int = 64
    batch: int = 8
    words: int = 256


def parameters(shape: Shape, key: Array) -> dict[str, Any]:
    """Float32: ``embedding`` [V, W], ``blocks`` whose arrays are stacked [N, ...], ``head``."""
    width = shape.width
    sizes = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    keys = iter(jax.random.split(key, len(sizes) + 2))

    def weight(*size: int) -> Array:
        return jax.random.normal(next(keys), size) / jnp.sqrt(size[-2])

    return {
        "embedding": weight(shape.words, width),
        "blocks": {name: weight(shape.blocks, *size) for name, size in sizes.items()},
        "head": weight(width, shape.words),
    }


def block(shape: Shape) -> Body:
    """A pre-norm block without biases: from activations [B, T, W] and its weights."""

    def run(x: Array, p: Any) -> tuple[Array, None]:
        size = (shape.batch, shape.tokens, shape.heads, -1)
        q, k, v = jnp.split((_norm(x) @ p["qkv"]).reshape(size), 3, -1)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.reshape(x.shape) @ p["out"]
        return x + jax.nn.gelu(_norm(x) @ p["up"]) @ p["down"], None

    return run


def loss_with(run: Callable[[Array, Any], tuple[Array, None]]) -> Callable[..., Array]:
    """Mean cross-entropy of the next words, of parameters and two batches of words i32[B, T].

    Args:
        run: From activations and ``blocks`` to activations: a scan of `block`, say.
    """

    def loss(params: Any, words: Array, labels: Array) -> Array:
        x, _ = run(params["embedding"][words], params["blocks"])
        logits = _norm(x) @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss


def _norm(x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
