"""Options that methods share: which layers move, and which devices move together.

What they mean stands in `lsam_jax.layerwise_sam`, and nowhere else. A factory takes them as
`**options: Unpack[...]`, and `with_options` gives it the signature that names each.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, get_args

from lsam_jax.arguments import Cuts
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec

Factory = TypeVar("Factory", bound=Callable[..., Any])


class DeviceOptions(TypedDict, total=False):
    """Which devices take a step together, and which share a perturbation."""

    axis_name: AxisName
    perturbation_sync: PerturbationSync


class LayerOptions(DeviceOptions, total=False):
    """How the parameters are cut into layers, too."""

    layers: LayerSpec


class SelectionOptions(LayerOptions, total=False):
    """Which layers are perturbed, too."""

    k: Any
    selection: Any


class EngineOptions(SelectionOptions, total=False):
    """How layers are ranked, and what the engine skips, too."""

    norm_decay: Any
    select_every: Any
    cuts: Cuts
    gate: bool | None


DEFAULTS: EngineOptions = {
    "k": None,
    "selection": "all",
    "layers": "array",
    "norm_decay": 0.0,
    "select_every": 1,
    "cuts": "auto",
    "gate": None,
    "axis_name": None,
    "perturbation_sync": "global",
}
"""In the order in which a signature names them."""


def with_options(factory: Factory) -> Factory:
    """Decorator of a function of `**options: Unpack[...]`: its signature names each of them.

    That is what `help`, `optax.inject_hyperparams` and the command line read. A name that is not
    there is refused, as by a function that says its arguments one by one.
    """
    declared = inspect.signature(factory)
    *own, rest = declared.parameters.values()
    (options,) = get_args(rest.annotation)
    kinds = options.__annotations__
    shared = [
        inspect.Parameter(name, rest.KEYWORD_ONLY, default=default, annotation=kinds[name])
        for name, default in DEFAULTS.items()
        if name in kinds
    ]
    signature = declared.replace(parameters=[*own, *shared])

    @functools.wraps(factory)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            names = ", ".join(signature.parameters)
            raise TypeError(f"{factory.__name__}: {error}. It takes {names}.") from None
        return factory(*args, **kwargs)

    checked.__signature__ = signature  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]
