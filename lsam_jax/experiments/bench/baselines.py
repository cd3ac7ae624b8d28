"""One step of SAM, written in every way that the benchmarks compare with this library's.

Each factory takes a loss ``loss(params, *args) -> (loss, aux)`` and returns a function of the
parameters, what else it needs at run time, and `args`, to the clean loss and aux and the gradient
at the perturbed weights (alpha is 1).
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

import lsam_jax as lsam

Loss = Callable[..., tuple[jax.Array, Any]]
Step = Callable[..., Any]


def textbook(loss: Loss, rho: float, normalize: bool = False) -> Step:
    """``(params, mask, *args)``: both gradients in full, and a mask on the first.

    The mask has the parameters' structure, with a truth or a number for each array or each weight.
    With `normalize` the perturbation is by the norm of the masked gradient.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def step(params: Any, mask: Any, *args: Any) -> tuple[Any, Any]:
        value, ascent = gradient(params, *args)
        ascent = jax.tree.map(jnp.multiply, mask, ascent)
        scale = rho / optax.tree.norm(ascent) if normalize else rho
        perturbed = jax.tree.map(lambda w, g: w + scale * g, params, ascent)
        return value, gradient(perturbed, *args)[1]

    return step


def static_cut(loss: Loss, rho: float, selected: Collection[str]) -> Step:
    """``(params, *args)``: what one would write by hand for layers that never change.

    The first gradient is taken with respect to the selected arrays alone, so XLA need not
    propagate errors below the first of them; the second pass is a full one. The forward pass of
    the layers below runs twice, except where XLA itself finds that both are the same.
    """

    def step(params: Any, *args: Any) -> tuple[Any, Any]:
        arrays = flatten_dict(params, sep="/")

        def with_selected(chosen: dict[str, jax.Array]) -> Any:
            return unflatten_dict(arrays | chosen, sep="/")

        chosen = {path: x for path, x in arrays.items() if path in selected}
        value, ascent = jax.value_and_grad(
            lambda chosen: loss(with_selected(chosen), *args), has_aux=True
        )(chosen)
        perturbed = jax.tree.map(lambda w, g: w + rho * g, chosen, ascent)
        return value, jax.grad(loss, has_aux=True)(with_selected(perturbed), *args)[0]

    return step


def optax_sam(loss: Loss, rho: float) -> Step:
    """``(params, *args)``: `optax.contrib.sam` in opaque mode, which perturbs everything."""
    tx = optax.contrib.sam(
        optax.identity(),
        optax.chain(optax.contrib.normalize(), optax.sgd(rho)),
        sync_period=2,
        opaque_mode=True,
    )

    def step(params: Any, *args: Any) -> tuple[Any, Any]:
        value, ascent = jax.value_and_grad(loss, has_aux=True)(params, *args)
        gradient, _ = tx.update(
            ascent,
            tx.init(params),
            params,
            grad_fn=lambda perturbed, _: jax.grad(loss, has_aux=True)(perturbed, *args)[0],
        )
        return value, gradient

    return step


def forced(tx: lsam.SamTransformation, params: Any, selected: Collection[str]) -> lsam.SamState:
    """The state in which a method that takes the k largest norms takes these k layers."""
    names = lsam.layer_names(params, tx.method.layers)
    norms = jnp.asarray([float(name in selected) for name in names])
    return tx.init(params)._replace(norms=norms)
