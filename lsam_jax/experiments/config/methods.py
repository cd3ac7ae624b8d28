"""The methods by name, and how each differentiates a loss: all in which training runs differ."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import lsam_jax as lsam
from lsam_jax.experiments.config import costs
from lsam_jax.experiments.config.objective import TrainingLoss
from lsam_jax.experiments.config.shared_options import BATCH, LONG, SharedOptions
from lsam_jax.layers.partition import LayerSpec


class Family(NamedTuple):
    """A method of the library as experiments use it.

    Attributes:
        label: What tables call it.
        make: Options to the transformation.
        defaults: Options, where a configuration says nothing.
        loss: The loss as the method takes it, of a `TrainingLoss`.
        price: ``(inspection, names, options)`` to the counted cost of a step, relative to a plain
            gradient, that selects the layers of these names; at least one, but where it freezes.
        freezes: Whether what a step does not draw stays as it is, see `lsam.freeze_inactive`.
    """

    label: str
    make: Callable[..., lsam.SamTransformation]
    defaults: Mapping[str, Any]
    loss: Callable[[TrainingLoss], Callable[..., Any]] = lambda loss: loss
    price: Callable[[lsam.Inspection, Sequence[str], Mapping[str, Any]], float] = (
        lambda inspection, names, options: inspection.cost(names)
    )
    freezes: bool = False

    @property
    def takes_mean(self) -> bool:
        """Whether all that it asks of a loss is its mean, which can be computed in parts."""
        return self.loss is self._field_defaults["loss"]

    @property
    def options(self) -> tuple[str, ...]:
        """Names of what can be set; a run has no named axes, see `step.build`."""
        names = inspect.signature(self.make).parameters
        shared = () if self.make is _no_ascent else SharedOptions._fields
        other = ("axis_name", "perturbation_sync", *shared)
        return (*(name for name in names if name not in other), *shared)

    def configured(self, options: Mapping[str, Any], steps: int = LONG) -> "ConfiguredMethod":
        """The method with all its options, for a run of so many steps."""
        own = {name: x for name, x in options.items() if name not in SharedOptions._fields}
        tx = SharedOptions.of(options).complete(self.make, own, steps)
        return ConfiguredMethod(self, options, tx)


def _no_ascent() -> lsam.SamTransformation:
    return lsam.layerwise_sam(None, 0.0, selection="none")


def _stale(
    rho: Any, decay: Any = 0.0, fresh: str | None = None, rest: float | None = None
) -> lsam.SamTransformation:
    return lsam.with_parts(lsam.sam(rho), ascent=lsam.stale(decay, fresh, rest))


METHODS: Mapping[str, Family] = {
    "sgd": Family("SGD", _no_ascent, {}),
    "sam": Family("SAM", lsam.sam, {"rho": 0.05}),
    "generalized_sam": Family("generalized SAM", lsam.generalized_sam, {"rho": 0.1, "alpha": 0.8}),
    "layerwise_sam": Family(
        "layer-wise SAM", lsam.layerwise_sam, {"k": 4, "rho": 0.1, "alpha": 0.8}
    ),
    "look_sam": Family("LookSAM", lsam.look_sam, {"rho": 0.1, "every": 3, "alpha": 0.8}),
    "asam": Family("ASAM", lsam.asam, {"rho": 0.5}),
    "sam_on": Family("SAM-ON", lsam.sam_on, {"rho": 0.5}),
    "gsam": Family("GSAM", lsam.gsam, {"rho": 0.05, "alpha": 0.4}),
    "stable_sam": Family("Stable SAM", lsam.stable_sam, {"rho": 0.05}),
    "functional_sam": Family(
        "Functional-SAM",
        lsam.functional_sam,
        {"rho": 0.05},
        loss=lambda loss: lsam.split_loss(loss.outputs, loss.of_outputs),
    ),
    "sparse_sam": Family("Sparse SAM", lsam.sparse_sam, {"rho": 0.05}),
    "ae_sam": Family("AE-SAM", lsam.ae_sam, {"rho": 0.05}),
    "momentum_sam": Family(
        "Momentum-SAM", lsam.momentum_sam, {"rho": 0.3}, price=lambda *given: 1.0
    ),
    "stale": Family("stale SAM", _stale, {"rho": 0.8}, price=costs.from_fresh_on),
    "adazo_sam": Family(
        "AdaZo-SAM",
        lsam.adazo_sam,
        {"rho": 0.05, "probes": 1},
        price=costs.differences,
    ),
    "esam": Family(
        "ESAM",
        lsam.esam,
        {"rho": 0.05, "beta": 0.6, "gamma": 0.5},
        loss=lambda loss: lsam.per_sample(loss.each, argnums=BATCH),
        price=costs.some_samples,
    ),
    "f_sam": Family("F-SAM", lsam.f_sam, {"rho": 0.1}),
    "fisher_sam": Family("Fisher SAM", lsam.fisher_sam, {"rho": 0.1}),
    "vasso": Family("VaSSO", lsam.vasso, {"rho": 0.1}),
    "wsam": Family("WSAM", lsam.wsam, {"rho": 0.05, "gamma": 0.9}),
    "zsharp": Family("ZSharp", lsam.zsharp, {"rho": 0.05}),
    "gam": Family("GAM", lsam.gam, {"rho": 0.1}, price=lambda *given: 4.0),
    "sl_sam": Family(
        "SL-SAM",
        lsam.sl_sam,
        {"rho": 0.01, "active": 0.2},
        price=costs.drawn_alone,
        freezes=True,
    ),
}
"""By their names in the library, and stale SAM, a combination of its parts."""

FORMAT = 2
"""Of a configuration's JSON: since 2, methods have their names in the library."""

FORMER_NAMES: Mapping[str, str] = {
    "gsam": "generalized_sam",
    "lsam": "layerwise_sam",
    "lsam_budget": "layerwise_sam",
    "looksam": "look_sam",
}
"""By what a configuration of a format before `FORMAT` calls a method."""


def in_todays_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `Config.to_json` gave, in this version or one before, without the number of its format.

    Example:
        >>> in_todays_names({"method": "lsam"}), in_todays_names({"format": 2, "method": "gsam"})
        ({'method': 'layerwise_sam'}, {'method': 'gsam'})
    """
    fields = dict(values)
    if fields.pop("format", 1) < FORMAT and fields.get("method") in FORMER_NAMES:
        fields["method"] = FORMER_NAMES[fields["method"]]
    return fields


@dataclasses.dataclass(frozen=True, eq=False)
class ConfiguredMethod:
    """How a method differentiates a loss.

    Attributes:
        family: The method's.
        options: All of them.
        tx: The method with these.
    """

    family: Family
    options: Mapping[str, Any]
    tx: lsam.SamTransformation

    def value_and_grad(self, loss_fn: TrainingLoss) -> Callable[..., Any]:
        """A function ``(params, state, *args) -> ((loss, aux), grads, state)``.

        SGD is `jax.value_and_grad` itself with a state that stays as it is, so the baseline of
        every cost ratio holds nothing of this library.
        """
        if self.family.make is _no_ascent:
            return _plain_value_and_grad(loss_fn)
        return SharedOptions.of(self.options).value_and_grad(self.family.loss(loss_fn), self.tx)

    def price(self, inspection: lsam.Inspection, names: Sequence[str]) -> float:
        """The counted cost of a step that selects these layers."""
        shared = SharedOptions.of(self.options)
        if not names and not self.family.freezes:  # a plain step
            return 1.0
        if shared.ascent_batch is not None:  # the passes share nothing, and all is climbed
            return 1 + shared.ascent_batch
        if shared.m is not None:  # likewise
            return 2.0
        return self.family.price(inspection, names, self.options)

    @cached_property
    def survival(self) -> Callable[[Any, Any, lsam.SamState], jax.Array]:
        """``(params, gradient, state)`` to the share of the perturbation that survives rounding.

        See `lsam.perturbation_survival`.
        """
        return jax.jit(partial(lsam.perturbation_survival, self.tx))

    def init(self, params: Any) -> lsam.SamState:
        """The method's first state."""
        return self.tx.init(params)

    @property
    def layers(self) -> LayerSpec:
        """How the method cuts the parameters into layers; as `lsam.layer_names` takes it."""
        return self.tx.method.layers


def complete(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method with its defaults filled in.

    Raises:
        ValueError, TypeError: When there is no such method or option, or a value makes no sense.
    """
    if name not in METHODS:
        now = FORMER_NAMES.get(name)
        hint = f"it is {now!r} now; " if now else ""
        raise ValueError(f"method={name!r} is not known; {hint}choose one of {', '.join(METHODS)}")
    family = METHODS[name]
    for option in options:
        if option not in family.options:
            raise ValueError(
                f"{option}={options[option]} is not an option of method {name!r}, which has "
                f"{', '.join(family.options) or 'none'}"
            )
    defaults = dict(family.defaults)
    if SharedOptions.of(options).sets_radius:
        defaults.pop("rho", None)
    full = {**defaults, **options}
    family.configured(full).value_and_grad(TrainingLoss(None, jnp.asarray, 0.0))  # complains
    return full


def method(name: str, options: Mapping[str, Any], steps: int = LONG) -> ConfiguredMethod:
    """A method with its options, see `complete`, for a run of so many steps."""
    return METHODS[name].configured(options, steps)


def _plain_value_and_grad(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.value_and_grad` with a state passed by."""
    differentiate = jax.value_and_grad(loss_fn, has_aux=True)

    def value_and_grad(params: Any, state: Any, *args: Any) -> tuple[Any, Any, Any]:
        value, grads = differentiate(params, *args)
        return value, grads, state

    return value_and_grad
