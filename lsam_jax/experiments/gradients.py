"""The gradient function of a method: the one thing in which training runs differ."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax

import lsam_jax as lsam
from lsam_jax.experiments.config import Config

LayerRule = str | Callable[[str], str | None]


class Method(NamedTuple):
    """How a method differentiates a loss.

    Attributes:
        init: Parameters to the method's state.
        value_and_grad: A loss that returns ``(loss, aux)`` to a function ``(params, state,
            *args) -> ((loss, aux), grads, state)``.
        layers: How the method cuts the parameters into layers; as `lsam.layer_names` takes it.
        k: How many of them a step perturbs; None where no number is asked for.
    """

    init: Callable[[Any], lsam.SamState]
    value_and_grad: Callable[[Callable[..., Any]], Callable[..., Any]]
    layers: LayerRule
    k: int | None = None


def each_array(path: str) -> str:
    """A layer rule under which every parameter array is a layer of its own."""
    return path


def method(config: Config) -> Method:
    """The method that `config` asks for.

    Args:
        config: Its `method`, `rho`, `alpha`, `k` and `normalize` are read.

    Returns:
        The method. SGD is `jax.value_and_grad` itself with a state that stays as it is, so the
        baseline of every cost ratio holds nothing of this library.
    """
    rho, alpha = cast(float, config.rho), cast(float, config.alpha)  # filled in by Config
    match config.method:
        case "sgd":
            nothing = lsam.layerwise_sam(k=0, rho=0.0, selection="none")
            return Method(nothing.init, _plain_value_and_grad, "kernel")
        case "sam":
            return _of(lsam.sam(rho=rho, layers=each_array), each_array)
        case "gsam":
            mixed = lsam.generalized_sam(rho=rho, alpha=alpha, layers=each_array)
            return _of(mixed, each_array)
        case _:
            tx = lsam.layerwise_sam(
                k=config.k, rho=rho, alpha=alpha, layers="kernel", normalize=config.normalize
            )
            return _of(tx, "kernel", config.k)


def _of(tx: lsam.SamTransformation, layers: LayerRule, k: int | None = None) -> Method:
    return Method(
        tx.init, lambda loss_fn: lsam.value_and_grad(loss_fn, tx, has_aux=True), layers, k
    )


def _plain_value_and_grad(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.value_and_grad` with a state passed by."""
    differentiate = jax.value_and_grad(loss_fn, has_aux=True)

    def value_and_grad(params: Any, state: Any, *args: Any) -> tuple[Any, Any, Any]:
        value, grads = differentiate(params, *args)
        return value, grads, state

    return value_and_grad
