"""The parts that methods are made of, for methods of your own.

A method answers six questions, each by one part: a NamedTuple of pure functions.

| part | question | ready-made |
|---|---|---|
| `Selector` | which layers? | those of `selection=`, see `lsam_jax.layerwise_sam` |
| `Ascent` | uphill by what? | `gradient`, `stale`, `momentum`, `two_point` |
| `Perturbation` | how far? | `plain`, `normalized`, `normalized_by_layer`, `adaptive` |
| `Descent` | what does the second pass differentiate? | `of_loss`, `of_outputs`, `of_samples` |
| `Combination` | what is descended? | `perturbed_only`, `mix`, `surrogate_gap`, `same_norm` |
| `Cadence` | when? | `always`, `every`, `between`, `bernoulli` |

`method` puts them together. What parts are told is a `StepContext` and a `Targets`; `vdot`,
`squared_norm` and `ratio` are the inner product and the norm as the methods here take them: in
float32 at least, and safe at zero. The guide, with an example, is docs/write-your-own-method.md.

>>> import jax.numpy as jnp
>>> import lsam_jax as lsam
>>> from lsam_jax import components
>>> def move(g, w, at, now, memory):  # the ball of the largest entry, instead of the Euclidean one
...     return [x + now.radius(i) * jnp.sign(d) for i, x, d in zip(at.layer, w, g)]
>>> tx = components.method(rho=0.5, perturbation=components.Perturbation(move))
>>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
>>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
>>> direction.tolist()
[3.5, 4.5]
"""

from typing import Any

from lsam_jax import arguments
from lsam_jax.arguments import Cuts
from lsam_jax.arrays.vectors import ratio, squared_norm, vdot
from lsam_jax.components import ascent as ascents
from lsam_jax.components import cadence as cadences
from lsam_jax.components import combination as combinations
from lsam_jax.components import descent as descents
from lsam_jax.components import perturbation as perturbations
from lsam_jax.components.ascent import Ascent, gradient, momentum, stale
from lsam_jax.components.cadence import Cadence, always, bernoulli, between, every
from lsam_jax.components.combination import Combination, mix, perturbed_only
from lsam_jax.components.context import StepContext, Targets, zeros_like_layers
from lsam_jax.components.descent import Descent, of_loss
from lsam_jax.components.perturbation import Perturbation, normalized, normalized_by_layer, plain
from lsam_jax.components.radius import Radius
from lsam_jax.components.selector import Selector
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.methods.adazo_sam import two_point
from lsam_jax.methods.asam import adaptive
from lsam_jax.methods.esam import of_samples
from lsam_jax.methods.functional_sam import of_outputs
from lsam_jax.methods.gsam import surrogate_gap
from lsam_jax.methods.stable_sam import same_norm
from lsam_jax.transform.transform import SamTransformation, build

__all__ = [
    "Ascent",
    "Cadence",
    "Combination",
    "Descent",
    "Perturbation",
    "Selector",
    "StepContext",
    "Targets",
    "adaptive",
    "always",
    "bernoulli",
    "between",
    "every",
    "gradient",
    "method",
    "mix",
    "momentum",
    "normalized",
    "normalized_by_layer",
    "of_loss",
    "of_outputs",
    "of_samples",
    "perturbed_only",
    "plain",
    "ratio",
    "same_norm",
    "squared_norm",
    "stale",
    "surrogate_gap",
    "two_point",
    "vdot",
    "zeros_like_layers",
]


def method(
    *,
    rho: Radius,
    alpha: arguments.Scalar = 1.0,
    selection: Any = "all",
    k: Any = None,
    layers: LayerSpec = "array",
    ascent: Ascent = ascents.gradient,
    perturbation: Perturbation = perturbations.normalized,
    descent: Descent = descents.of_loss,
    combination: Combination = combinations.perturbed_only,
    when: Cadence = cadences.always,
    norm_decay: Any = 0.0,
    select_every: Any = 1,
    cuts: Cuts = "auto",
    gate: bool | None = None,
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """The method of these parts; with none but `rho`, SAM.

    It works in `value_and_grad` and in a chain, on several devices, with schedules, as every method
    here does, and costs what its parts need: the engine skips what both passes share.

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      alpha: the weight that the combination uses; a number or a schedule.
      selection: which layers are perturbed, as for `layerwise_sam`, or a `Selector` of your own.
      k: how many layers, if the selection needs a number.
      layers: how the parameters are cut into layers; see `layer_names`.
      ascent: uphill by what.
      perturbation: how far the weights move.
      descent: what the second pass differentiates.
      combination: what is descended.
      when: which steps perturb.
      norm_decay: of the running mean of the stored norms, as for `layerwise_sam`.
      select_every: steps between selections, likewise.
      cuts: where the engine may cut the network, likewise.
      gate: whether it skips weight gradients by conditionals, likewise.
      axis_name: the axis of devices to average over, likewise.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range or of another kind, naming it.

    >>> from lsam_jax import components
    >>> sam = components.method(rho=0.05)
    >>> late = components.method(rho=0.05, when=components.between(7 / 8, 1, steps=1000))
    >>> components.method(rho=0.05, when=0.5)
    Traceback (most recent call last):
    TypeError: when must be a Cadence; got 0.5.
    """
    kinds = {
        "ascent": (ascent, Ascent),
        "perturbation": (perturbation, Perturbation),
        "descent": (descent, Descent),
        "combination": (combination, Combination),
        "when": (when, Cadence),
    }
    for name, (part, kind) in kinds.items():
        if not isinstance(part, kind):
            raise TypeError(f"{name} must be a {kind.__name__}; got {part!r}.")
    return build(
        rho=rho,
        alpha=alpha,
        selection=selection,
        k=k,
        layers=layers,
        ascend=ascent,
        perturb=perturbation,
        descend=descent,
        combine=combination,
        when=when,
        norm_decay=norm_decay,
        select_every=select_every,
        where=cuts,
        gate=gate,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )
