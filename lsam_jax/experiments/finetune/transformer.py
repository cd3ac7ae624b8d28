"""A small language model over bytes, whose blocks are one scan over stacked weights.

Pre-LayerNorm (Xiong et al. 2020, https://arxiv.org/abs/2002.04745), causal, with learned positions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

BYTES = 256
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The model; its parameters are a pytree, in which "blocks" is stacked.

    Args:
        blocks: How many.
        width: Of what is passed from block to block.
        heads: Of the attention; `width` is a multiple of it.
        context: How many bytes it sees.

    Raises:
        ValueError: When a value makes no sense.
    """

    blocks: int = 4
    width: int = 64
    heads: int = 4
    context: int = 64

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")

    def init(self, key: jax.Array) -> Params:
        """Parameters at random; the first axis of those in "blocks" is the block."""
        keys = iter(jax.random.split(key, 7))
        depth, width = self.blocks, self.width

        def kernel(*shape: int, fan_in: int) -> jax.Array:
            return jax.random.normal(next(keys), shape) / np.sqrt(fan_in)

        def norm(*shape: int) -> Params:
            return {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)}

        # What enters the residual stream starts small, by the number of its summands.
        summands = 2 * depth
        return {
            "embedding": kernel(BYTES, width, fan_in=width),
            "position": kernel(self.context, width, fan_in=width),
            "blocks": {
                "norm1": norm(depth, width),
                "qkv": kernel(depth, width, 3 * width, fan_in=width),
                "out": kernel(depth, width, width, fan_in=width * summands),
                "norm2": norm(depth, width),
                "up": kernel(depth, width, 4 * width, fan_in=width),
                "down": kernel(depth, 4 * width, width, fan_in=4 * width * summands),
            },
            "norm": norm(width),
            "head": kernel(width, BYTES, fan_in=width),
        }

    def logits(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Of the byte after each.

        Args:
            params: See `init`.
            tokens: i32[B, T] with T at most `context`.

        Returns:
            f32[B, T, 256].
        """
        x = params["embedding"][tokens] + params["position"][: tokens.shape[1]]

        def body(x: jax.Array, block: Params) -> tuple[jax.Array, None]:
            return self._block(block, x), None

        # Unrolled, as on a CPU a loop takes twice the time of its straight code.
        x, _ = jax.lax.scan(body, x, params["blocks"], unroll=True)
        return layer_norm(params["norm"], x) @ params["head"]

    def loss(self, params: Params, windows: jax.Array) -> jax.Array:
        """Mean cross-entropy of each byte given those before it, in nats.

        Args:
            params: See `init`.
            windows: i32[B, T + 1]; all but the first byte are predicted.
        """
        logits = self.logits(params, windows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()

    def _block(self, p: Params, x: jax.Array) -> jax.Array:
        x = x + self._attention(p, layer_norm(p["norm1"], x))
        return x + jax.nn.gelu(layer_norm(p["norm2"], x) @ p["up"]) @ p["down"]

    def _attention(self, p: Params, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(batch, length, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width // self.heads)
        scores = jnp.where(np.tri(length, dtype=bool), scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return mixed.reshape(batch, length, width) @ p["out"]


def layer_norm(p: Params, x: jax.Array) -> jax.Array:
    """Each vector to mean 0 and variance 1, then scaled and shifted."""
    x = x - x.mean(-1, keepdims=True)
    return p["scale"] * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) + p["bias"]
