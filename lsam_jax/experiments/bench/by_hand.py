"""SAM and its relatives as one writes them by hand, for the time that XLA takes to compile them.

Each is a function `(loss, params, batch)`, the loss made by `lsam.split_loss`; value and direction
come back, and no state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

RHO, ALPHA, ETA = 0.1, 0.7, 0.01
Step = Callable[[Any, Any, Any], Any]


def _step(up: Callable[[Any, Any], Any], mix: Callable[[Any, Any], Any]) -> Step:
    """From (gradient, weights) to a perturbation, and from both gradients to a direction."""

    def step(loss: Any, params: Any, batch: Any) -> Any:
        value, g = jax.value_and_grad(loss)(params, batch)
        there = jax.tree.map(jnp.add, params, up(g, params))
        return value, mix(g, jax.grad(loss)(there, batch))

    return step


def _dot(a: Any, b: Any) -> Any:
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _times(scale: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x: scale * x, tree)


def _normalized(g: Any, w: Any) -> Any:
    return _times(RHO / jnp.sqrt(_dot(g, g)), g)


def _kernels(g: Any, w: Any) -> Any:
    return jax.tree.map(lambda x: RHO * x if x.ndim > 1 else jnp.zeros_like(x), g)


def _adaptive(g: Any, w: Any) -> Any:
    def once(d: Any, x: Any) -> Any:
        return d if x.ndim == 1 else (jnp.abs(x) + ETA) * d

    scaled = jax.tree.map(once, g, w)
    return _times(RHO / jnp.sqrt(_dot(scaled, scaled)), jax.tree.map(once, scaled, w))


def _along_clean_cotangent(loss: Any, params: Any, batch: Any) -> Any:
    value, g = jax.value_and_grad(loss)(params, batch)
    there = jax.tree.map(jnp.add, params, _normalized(g, params))
    clean = jax.grad(loss.loss)(loss.outputs(params, batch), batch)
    _, pull_back = jax.vjp(lambda params: loss.outputs(params, batch), there)
    return value, pull_back(clean)[0]


def _surrogate_gap(g: Any, h: Any) -> Any:
    along = _dot(g, h) / _dot(h, h)
    return jax.tree.map(lambda x, y: y - ALPHA * (x - along * y), g, h)


def _perturbed(g: Any, h: Any) -> Any:
    return h


STEPS: Mapping[str, Step] = {
    "sam": _step(_normalized, _perturbed),
    "generalized_sam": _step(
        _normalized,
        lambda g, h: jax.tree.map(lambda x, y: (1 - ALPHA) * x + ALPHA * y, g, h),
    ),
    "generalized_sam, by layer": _step(
        lambda g, w: jax.tree.map(lambda x: RHO * x / jnp.sqrt(jnp.sum(x**2)), g),
        lambda g, h: jax.tree.map(lambda x, y: (1 - ALPHA) * x + ALPHA * y, g, h),
    ),
    "layerwise_sam, all": _step(_kernels, _perturbed),
    "asam": _step(_adaptive, _perturbed),
    "gsam": _step(_normalized, _surrogate_gap),
    "stable_sam": _step(
        _normalized, lambda g, h: _times(jnp.sqrt(_dot(g, g)) / jnp.sqrt(_dot(h, h)), h)
    ),
    "functional_sam": _along_clean_cotangent,
}
"""By the names of `compile_time.methods`."""
