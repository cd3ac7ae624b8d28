"""Quadratics, whose gradient and Hessian are known."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest


class Quadratic(NamedTuple):
    """1/2 w'Hw + b'w over two layers and what is in none, and what NumPy knows of it.

    `loss_fn(params, part, scale)`: for each of three batches, a part of H and of b whose mean,
    times `scale`, is the whole.
    """

    loss_fn: Any
    params: Any
    batches: Any
    scale: float
    hessian: np.ndarray
    slope: np.ndarray
    centre: np.ndarray
    of: dict[Any, np.ndarray]  # the entries of each layer

    def at(self, w):
        return 0.5 * w @ self.hessian @ w + self.slope @ w


SHAPES = {"bias": (3,), "in": (5, 6), "out": (4, 1)}


def flat(tree):
    return np.concatenate([np.asarray(tree[name], np.float64).ravel() for name in SHAPES])


@pytest.fixture
def quadratic(x64):
    rng = np.random.default_rng(0)
    ends = np.cumsum([np.prod(shape) for shape in SHAPES.values()])
    size = ends[-1]
    of = dict(zip(SHAPES, np.split(np.arange(size), ends[:-1])))
    root = rng.normal(size=(size, size))
    hessian, slope = root @ root.T - 5 * np.eye(size), rng.normal(size=size)
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}

    # The noise of the batches has no mean: no batch alone gives the right answer.
    noise = rng.normal(size=(3, size, size + 1))
    noise -= noise.mean(axis=0)
    symmetric = noise[..., 1:] + np.swapaxes(noise[..., 1:], 1, 2)
    batches = [
        {"H": (hessian + 9 * h) / 2, "b": (slope + 9 * n[:, 0]) / 2}
        for h, n in zip(symmetric, noise)
    ]

    def loss_fn(params, batch, scale):
        w = jnp.concatenate([params[name].ravel() for name in SHAPES])
        return scale * (0.5 * w @ batch["H"] @ w + batch["b"] @ w)

    everything = {**of, None: np.arange(size)}
    return Quadratic(loss_fn, params, batches, 2.0, hessian, slope, flat(params), everything)
