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

from lsam_jax.arrays.vectors import ratio, squared_norm, vdot
from lsam_jax.components.ascent import Ascent, gradient, momentum, stale
from lsam_jax.components.cadence import Cadence, always, bernoulli, between, every
from lsam_jax.components.combination import Combination, mix, perturbed_only
from lsam_jax.components.context import StepContext, Targets, zeros_like_layers
from lsam_jax.components.descent import Descent, of_loss
from lsam_jax.components.perturbation import Perturbation, normalized, normalized_by_layer, plain
from lsam_jax.components.selector import Selector
from lsam_jax.methods.adazo_sam import two_point
from lsam_jax.methods.asam import adaptive
from lsam_jax.methods.esam import of_samples
from lsam_jax.methods.functional_sam import of_outputs
from lsam_jax.methods.gsam import surrogate_gap
from lsam_jax.methods.stable_sam import same_norm
from lsam_jax.transform.transform import method

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
