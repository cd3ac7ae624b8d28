"""The methods of the family as their papers print them, in NumPy, on one flat vector of weights.

The oracle of the tests: full gradients, masks, nothing skipped, nothing imported from lsam_jax.
Each method is a function of a `Problem` that returns a function `(w, count) -> direction`; what it
remembers from step to step is a local variable of it.
"""

import zlib
from typing import Any, NamedTuple

import jax
import numpy as np


class Problem(NamedTuple):
    """A loss of the current batch, and how its vector of weights is made up."""

    loss: Any  # w -> number
    gradient: Any  # w -> vector
    layers: dict  # name -> bool mask of the vector, in network order, of the kernels
    arrays: dict  # the same for all arrays, in tree order
    order: tuple  # the names of the kernels in tree order
    selected: Any  # () -> the names of the layers that lsam_jax reports for this step
    mask: Any  # () -> the weights that it may move in this step


def norm(x):
    return np.sqrt(np.sum(x * x))


def unit(x):
    size = norm(x)
    return x / size if size > 0 else 0 * x


def perturbed(p, eps):
    """Descends on the gradient at `w + eps(w, g)`."""
    return lambda w, count: p.gradient(w + eps(w, p.gradient(w)))


def sam(p, rho):
    return perturbed(p, lambda w, g: rho * unit(g))


def generalized(p, rho, alpha):
    def step(w, count):
        g = p.gradient(w)
        return (1 - alpha) * g + alpha * p.gradient(w + rho * unit(g))

    return step


def asam(p, rho, eta, scaled):
    mask = sum(p.arrays[n] for n in p.arrays if scaled(n))

    def eps(w, g):
        T = np.where(mask, np.abs(w) + eta, 1.0)
        return rho * T**2 * g / norm(T * g)

    return perturbed(p, eps)


def sam_on(p, rho, names):
    mask = sum(p.arrays[n] for n in names if n in p.arrays)
    return perturbed(p, lambda w, g: rho * unit(mask * g))


def gsam(p, rho, alpha):
    def step(w, count):
        g = p.gradient(w)
        h = p.gradient(w + rho * unit(g))
        return h - alpha * (g - unit(h) * np.dot(unit(h), g))

    return step


def stable_sam(p, rho):
    def step(w, count):
        g = p.gradient(w)
        return norm(g) * unit(p.gradient(w + rho * unit(g)))

    return step


def radii(p, rho_of):
    rho = sum(rho_of(n) * mask for n, mask in p.arrays.items())
    return perturbed(p, lambda w, g: rho * unit(g))


def look(p, rho, every, alpha):
    kept = None

    def step(w, count):
        nonlocal kept
        g = p.gradient(w)
        if count % every == 0:
            h = p.gradient(w + rho * unit(g))
            kept = h - unit(g) * np.dot(unit(g), h)
            return h
        return g + alpha * norm(g) * unit(kept)

    return step


def adaptive(p, rho, threshold, decay):
    mean = variance = 0.0
    p.gradient.used = []

    def step(w, count):
        nonlocal mean, variance
        g = p.gradient(w)
        square = np.float32(np.sum(g * g))
        mean = decay * mean + (1 - decay) * square
        variance = decay * variance + (1 - decay) * (square - mean) ** 2
        perturbs = square >= mean + threshold * np.sqrt(variance)
        p.gradient.used.append(bool(perturbs))
        return p.gradient(w + rho * unit(g)) if perturbs else g

    return step


def momentum(p, rho, mu):
    m = 0.0

    def step(w, count):
        nonlocal m
        h = p.gradient(w - rho * unit(m + 0 * w))
        m = mu * m + h
        return h

    return step


def choose(norms, k, order):
    """The k layers of largest norm, of equal ones those nearest the output."""
    ranked = sorted(range(len(order)), key=lambda i: (norms[order[i]], i))
    return {order[i] for i in ranked[len(order) - k :]}


def layer_norms(p, x):
    return {name: np.float32(norm(x[mask])) for name, mask in p.layers.items()}


def layerwise_asam(p, rho, eta, k, order):
    norms = dict.fromkeys(p.layers, 0)

    def step(w, count):
        nonlocal norms
        mask = sum(p.layers[n] for n in choose(norms, k, order))
        g = mask * p.gradient(w)
        T = np.abs(w) + eta
        h = p.gradient(w + rho * T**2 * g / norm(T * g))
        norms = layer_norms(p, h)
        return h

    return step


def layerwise_look(p, rho, every, alpha, k, order):
    """Reuse steps descend on g, turned by what was kept for the layers that were perturbed."""
    norms, kept, mask = dict.fromkeys(p.layers, 0), None, None

    def step(w, count):
        nonlocal norms, kept, mask
        full = p.gradient(w)
        if count % every == 0:
            mask = sum(p.layers[n] for n in choose(norms, k, order))
            g = mask * full
            h = p.gradient(w + rho * unit(g))
            kept = mask * (h - unit(g) * np.dot(unit(g), h))
            norms = layer_norms(p, h)
            return h
        norms = layer_norms(p, full)
        return full + alpha * norm(mask * full) * unit(kept)

    return step


def key_for(purpose, seed, count):
    own = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose))
    return jax.random.fold_in(own, count)


def differences(p, rho, probes, c, seed):
    """With the same probes: array n of probe i in step t is drawn from the key seed, t, i, n."""
    masks = list(p.arrays.values())

    def draw(key, w):
        u = np.zeros_like(w)
        for n, mask in enumerate(masks):
            u[mask] = jax.random.normal(jax.random.fold_in(key, n), (mask.sum(),), w.dtype)
        return u

    def step(w, count):
        key = key_for(b"probes", seed, count)
        us = [draw(jax.random.fold_in(key, i), w) for i in range(probes)]
        d = sum((p.loss(w + c * u) - p.loss(w - c * u)) / (2 * c) * u for u in us) / probes
        return p.gradient(w + rho * unit(d))

    return step


def drawn(p, rho, layers):
    """The draws themselves are taken from the state: `p.selected`, set by the test."""

    def step(w, count):
        mask = sum((m for n, m in layers.items() if n in p.selected()), np.zeros_like(w, bool))
        return mask * p.gradient(w + rho * unit(mask * p.gradient(w)))

    return step


def part(p, rho, beta, layers):
    """ESAM's perturbation by layers; the draws themselves are taken from the state."""

    def step(w, count):
        mask = sum((m for n, m in layers.items() if n in p.selected()), np.zeros_like(w, bool))
        return p.gradient(w + rho / beta * unit(mask * p.gradient(w)))

    return step


def part_of_weights(p, rho, beta, seed):
    """By weights, with the same draws: array n in step t is drawn from the key seed, t, n."""

    def step(w, count):
        key = key_for(b"weights", seed, count)
        drawn = np.zeros_like(w)
        for n, mask in enumerate(p.arrays.values()):
            drawn[mask] = jax.random.uniform(jax.random.fold_in(key, n), (mask.sum(),)) < beta
        assert 0.3 < drawn.mean() < 0.9
        return p.gradient(w + rho / beta * drawn * unit(p.gradient(w)))

    return step


def sparse(p, rho):
    """The mask, whose own tests are elsewhere, is taken from the state before the step."""
    return lambda w, count: p.gradient(w + rho * p.mask() * unit(p.gradient(w)))


def gam(p, rho, alpha, c):
    def hessian_times_unit_gradient(w):
        g = p.gradient(w)
        return (p.gradient(w + c * unit(g)) - g) / c

    def step(w, count):
        ahead = w + rho * unit(hessian_times_unit_gradient(w))
        return p.gradient(w) + alpha * rho * hessian_times_unit_gradient(ahead)

    return step


def f_sam(p, rho, sigma, decay):
    m = 0.0

    def step(w, count):
        nonlocal m
        g = p.gradient(w)
        m = decay * m + (1 - decay) * g
        return p.gradient(w + rho * unit(g - sigma * m))

    return step


def fisher_sam(p, rho):
    return perturbed(p, lambda w, g: rho * g / (1 + g * g) / np.sqrt(np.sum(g * g / (1 + g * g))))


def vasso(p, rho, theta):
    d = 0.0

    def step(w, count):
        nonlocal d
        d = (1 - theta) * d + theta * p.gradient(w)
        return p.gradient(w + rho * unit(d))

    return step


def wsam(p, rho, gamma):
    def step(w, count):
        g = p.gradient(w)
        return g + gamma / (1 - gamma) * (p.gradient(w + rho * unit(g)) - g)

    return step


def zsharp(p, rho, share):
    def step(w, count):
        g = p.gradient(w)
        z = np.zeros_like(g)
        for mask in p.arrays.values():
            if mask.sum() > 1:
                z[mask] = np.abs(g[mask] - np.mean(g[mask])) / np.std(g[mask], ddof=1)
        keep = z > np.quantile(z, 1 - share)
        assert 0 < keep.sum() < keep.size
        return p.gradient(w + rho * unit(keep * g))

    return step


def window(p, rho, start, stop):
    def step(w, count):
        g = p.gradient(w)
        return p.gradient(w + rho * unit(g)) if start <= count < stop else g

    return step
