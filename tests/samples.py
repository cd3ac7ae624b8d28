"""A small network, its loss on samples, and a part of a batch."""

import jax
import jax.numpy as jnp
import numpy as np

RHO, ROWS = 0.3, 16


def network():
    rng = np.random.default_rng(0)
    shapes = {"z_in/w": (5, 6), "z_in/b": (6,), "m/w": (6, 6), "m/b": (6,), "a_out/w": (6, 3)}
    params = {n: jnp.asarray(rng.normal(size=s) / 2) for n, s in shapes.items()}
    x = jnp.asarray(rng.normal(size=(4, ROWS, 5)))
    return params, [{"x": b, "y": jnp.arange(ROWS) % 3} for b in x]


ORDER = ["z_in/w", "m/w", "a_out/w"]


def losses(params, batch):
    x = jnp.tanh(batch["x"] @ params["z_in/w"] + params["z_in/b"])
    x = jnp.tanh(x @ params["m/w"] + params["m/b"])
    logits = x @ params["a_out/w"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], 1)[:, 0]


def loss(params, batch):
    """And aux: the mean of the batch."""
    return jnp.mean(losses(params, batch)), jnp.mean(batch["x"])


def every(batch, n, first=0):
    return jax.tree.map(lambda x: x[first::n], batch)
