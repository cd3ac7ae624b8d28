"""Layer-wise SAM as the paper prints it (Algorithm 1, eq. 6): the oracle of the tests.

Full gradients, a mask, full gradients, in NumPy around one `jax.value_and_grad`; nothing is
skipped, nothing is shared, and nothing is imported from lsam_jax. Trees are flattened to
dictionaries from path to array; a layer is a key of `order`, the hand-written network order.
"""

from typing import NamedTuple

import jax
import numpy as np


class Step(NamedTuple):
    """What one step gives: arrays by path, norms by layer."""

    loss: float
    aux: object
    direction: dict
    norms: dict
    sharpness: float


def named(tree):
    """{path: NumPy array} in tree order, "block0/Conv_0/kernel" for a nested dictionary."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}


def unnamed(arrays, like):
    """The tree `like` with the arrays of `arrays`."""
    return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))


def norm(*arrays):
    return np.sqrt(sum(np.sum(np.square(np.float64(a))) for a in arrays))


def by_layer(arrays, layer_of):
    layers = dict.fromkeys(layer_of[n] for n in arrays if n in layer_of)
    return {layer: [a for n, a in arrays.items() if layer_of.get(n) == layer] for layer in layers}


def choose(norms, k, order, largest=True):
    """The k layers of largest (smallest) norm; of equal ones those nearest the output."""
    sign = 1 if largest else -1
    ranked = np.lexsort((np.arange(len(order)), [sign * norms[layer] for layer in order]))
    return {order[i] for i in ranked[len(order) - k :]}


@np.errstate(invalid="ignore")  # the tests spoil some steps on purpose
def step(value_and_grad, params, batch, chosen, rho, alpha=1.0, normalize=False, layer_of=None):
    """One step on the layers `chosen`; `value_and_grad(params, batch) -> ((loss, aux), grads)`.

    `layer_of` maps a path to its layer; without it every array of rank > 1 is its own layer.
    """
    w = named(params)
    layer_of = layer_of or {n: n for n, a in w.items() if a.ndim > 1}
    (loss, aux), g = value_and_grad(params, batch)
    g = named(g)
    mask = {n: layer_of.get(n) in chosen for n in w}

    g_layer = {layer: norm(*a) for layer, a in by_layer(g, layer_of).items()}
    g_chosen = norm(*[g[n] for n in w if mask[n]])
    size = {
        n: {False: 1, True: g_chosen, "layer": g_layer.get(layer_of.get(n))}[normalize] for n in w
    }
    moves = {n: mask[n] and size[n] > 0 for n in w}
    eps = {n: rho * g[n] / size[n] if moves[n] else np.zeros_like(g[n]) for n in w}

    (loss_there, _), h = value_and_grad(unnamed({n: w[n] + eps[n] for n in w}, params), batch)
    h = named(h)
    direction = {n: (1 - alpha) * g[n] + alpha * h[n] if mask[n] else h[n] for n in w}
    norms = {layer: norm(*a) for layer, a in by_layer(h, layer_of).items()}
    return Step(loss, aux, direction, norms, loss_there - loss)


class Momentum:
    """Heavy-ball SGD, `m = mu m + d; w = w - lr m`, on named arrays."""

    def __init__(self, lr, mu):
        self.lr, self.mu, self.m = lr, mu, {}

    def __call__(self, params, direction):
        self.m = {n: self.mu * self.m.get(n, 0) + d for n, d in direction.items()}
        return unnamed({n: w - self.lr * self.m[n] for n, w in named(params).items()}, params)


def relative_error(got, want):
    """||got - want|| / ||want||; an array that must be zero must be exactly zero."""
    assert np.shape(got) == np.shape(want), (np.shape(got), np.shape(want))
    difference = norm(np.float64(got) - np.float64(want))
    return 0.0 if difference == 0 else difference / max(norm(want), np.finfo(np.float64).tiny)
