"""What the networks of the zoo are made of."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 5
CLASSES = 3


class Case(NamedTuple):
    params: Any
    loss: Any  # (params, batch) -> (loss, aux)
    batches: list  # one for each of STEPS steps
    order: tuple  # paths of the kernels from input to output


def array(rng, *shape):
    """A random array of about unit gain; a vector is close to 1."""
    x = rng.normal(size=shape)
    return jnp.asarray(x / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 1 + 0.1 * x)


def batches(rng, *shape, classes=CLASSES, batch=4):
    """STEPS batches of inputs of a shape and of labels."""
    return [
        {
            "x": jnp.asarray(rng.normal(size=(batch, *shape))),
            "y": jnp.asarray(rng.integers(0, classes, batch)),
            "key": jax.random.key(i),
        }
        for i in range(STEPS)
    ]


def cross_entropy(logits, labels):
    """The loss, and as aux what training loops keep: metrics, whole numbers, structure."""
    log_p = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(log_p, labels[..., None], -1).mean()
    return loss, {"right": (logits.argmax(-1) == labels).sum(), "logits": logits}


def layer_norm(x, scale):
    x = x - x.mean(-1, keepdims=True)
    return scale * x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)
