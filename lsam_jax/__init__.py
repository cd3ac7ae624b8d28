"""Layer-wise sharpness-aware minimization for JAX, at close to the price of SGD.

Sharpness-aware minimization (SAM) descends on the gradient at weights that were first moved
uphill: flatter minima, at two gradients a step. Layer-wise SAM (Lee, KDD 2024) moves only the k
layers whose gradient is largest. Here both passes share what they have in common: layers in
front of the first perturbed one see the same weights twice and are computed once.

Replace `jax.value_and_grad` by `value_and_grad`, and keep the rest:

>>> import jax, jax.numpy as jnp, optax
>>> import lsam_jax as lsam
>>> sam, sgd = lsam.layerwise_sam(k=1, rho=0.1, alpha=0.8), optax.sgd(0.1)
>>> loss_fn = lambda params, x: jnp.mean((jnp.tanh(x @ params["w1"]) @ params["w2"]) ** 2)
>>> value_and_grad = lsam.value_and_grad(loss_fn, sam)
>>> @jax.jit
... def train_step(params, sam_state, opt_state, x):
...     loss, grads, sam_state = value_and_grad(params, sam_state, x)
...     updates, opt_state = sgd.update(grads, opt_state, params)
...     return optax.apply_updates(params, updates), sam_state, opt_state, loss
>>> params, x, losses = {"w1": jnp.eye(2), "w2": jnp.ones((2, 1))}, jnp.ones((4, 2)), []
>>> sam_state, opt_state = sam.init(params), sgd.init(params)
>>> for _ in range(5):
...     params, sam_state, opt_state, loss = train_step(params, sam_state, opt_state, x)
...     losses.append(float(loss))
>>> losses[-1] < 0.5 * losses[0]
True
>>> dict(zip(lsam.layer_names(params), sam_state.perturbations.tolist()))  # perturbed
{'w1': 3, 'w2': 2}

Or put a method in a chain, `optax.chain(sam, sgd)`, and hand `update` the loss: see
`SamTransformation`.

**Train.** `value_and_grad`; the state `SamState` with its `Memory`; `layer_names`;
`freeze_inactive`; `perturbation_survival`, for half precision; `data_parallel`, for several
devices. For Flax `lsam_jax.integrations.linen` and `lsam_jax.integrations.nnx`.

**Price.** `inspect` shows what perturbing each layer would cost, as an `Inspection` of
`LayerCost` rows.

**Methods, fewer than two gradients a step.** `layerwise_sam`, `look_sam`, `ae_sam`, `momentum_sam`,
`sl_sam`, `esam`, `sam_on`, `adazo_sam`.

**Methods, two gradients a step or more.** `sam`, `generalized_sam`, `asam`, `gsam`, `stable_sam`,
`sparse_sam`, `functional_sam`, `gam`, `f_sam`, `fisher_sam`, `vasso`, `wsam`, `zsharp`.
Where papers and their code differ: `lsam_jax.presets`.

**What a layer is** (`layers=`). See `layer_names`; `stacked`, for models that scan over blocks.

**Which layers** (`selection=`). `high`, `low`, `random`, `independent`, `everything`, `nothing`,
`fixed`, `budget`, `price`, `per_cost`, `bandit`; a `Selector` of your own.

**Other parts of a method.** `with_parts`: uphill by the step before (`stale`), one gradient a step,
or by the step before in front of a layer and fresh from it on; perturbing only in some steps
(`between`, `every`, `bernoulli`), the others costing one gradient.

**Adapters on frozen weights.** `flat_lora`, noise on the frozen weights inside the loss: one
gradient a step.

**Methods of your own.** `components`: the parts that every method here is made of.

**How far** (`rho=`). A number, an Optax schedule, `per_layer` radii, one `bounded` by the gradient,
or one that follows the `rise` of the loss. `suggest_rho` measures where to start, as a
`Suggestion`.

**Losses that can be taken apart.** `split_loss` for `functional_sam`, `per_sample` for `esam` and
for `empirical_fisher`, whose mask `refresh_mask` gives to `sparse_sam`.

**Training from Python.** `lsam_jax.experiments.presets.preset` and
`lsam_jax.experiments.training.fit` are what the command line `lsam-jax train` calls.

In formulas w are the weights, g the gradient at w, h the gradient at the perturbed weights, and
||.|| is the Euclidean norm. L is the number of layers, B that of samples, and `f32[L]` an array
of L numbers of type float32.
"""

from lsam_jax import components, presets
from lsam_jax.components.ascent import stale
from lsam_jax.components.bandit import bandit
from lsam_jax.components.budget import budget, per_cost, price
from lsam_jax.components.cadence import bernoulli, between, every
from lsam_jax.components.radius import bounded, per_layer
from lsam_jax.components.rise import rise
from lsam_jax.components.selection import everything, fixed, high, independent, low, nothing, random
from lsam_jax.components.selector import Selector
from lsam_jax.devices.data_parallel import data_parallel
from lsam_jax.inspection import Inspection, LayerCost, inspect
from lsam_jax.layers.partition import layer_names
from lsam_jax.layers.stacked import stacked
from lsam_jax.losses import per_sample, split_loss
from lsam_jax.methods.adazo_sam import adazo_sam
from lsam_jax.methods.ae_sam import ae_sam
from lsam_jax.methods.asam import asam
from lsam_jax.methods.esam import esam
from lsam_jax.methods.f_sam import f_sam
from lsam_jax.methods.fisher_sam import fisher_sam
from lsam_jax.methods.flat_lora import flat_lora
from lsam_jax.methods.freeze_inactive import freeze_inactive
from lsam_jax.methods.functional_sam import functional_sam
from lsam_jax.methods.gam import gam
from lsam_jax.methods.gsam import gsam
from lsam_jax.methods.layerwise_sam import layerwise_sam
from lsam_jax.methods.look_sam import look_sam
from lsam_jax.methods.momentum_sam import momentum_sam
from lsam_jax.methods.sam import generalized_sam, sam
from lsam_jax.methods.sam_on import sam_on
from lsam_jax.methods.sl_sam import sl_sam
from lsam_jax.methods.sparse_sam import empirical_fisher, refresh_mask, sparse_sam
from lsam_jax.methods.stable_sam import stable_sam
from lsam_jax.methods.vasso import vasso
from lsam_jax.methods.wsam import wsam
from lsam_jax.methods.zsharp import zsharp
from lsam_jax.suggestion import Suggestion, suggest_rho
from lsam_jax.transform.perturbation_survival import perturbation_survival
from lsam_jax.transform.state import Memory, SamState
from lsam_jax.transform.transform import SamTransformation
from lsam_jax.transform.value_and_grad import value_and_grad
from lsam_jax.transform.with_parts import with_parts

__version__ = "0.1.0"

__all__ = [
    "Inspection",
    "LayerCost",
    "Memory",
    "SamState",
    "SamTransformation",
    "Selector",
    "Suggestion",
    "adazo_sam",
    "ae_sam",
    "asam",
    "bandit",
    "bernoulli",
    "between",
    "bounded",
    "budget",
    "components",
    "data_parallel",
    "empirical_fisher",
    "esam",
    "every",
    "everything",
    "f_sam",
    "fisher_sam",
    "fixed",
    "flat_lora",
    "freeze_inactive",
    "functional_sam",
    "gam",
    "generalized_sam",
    "gsam",
    "high",
    "independent",
    "inspect",
    "layer_names",
    "layerwise_sam",
    "look_sam",
    "low",
    "momentum_sam",
    "nothing",
    "per_cost",
    "per_layer",
    "per_sample",
    "perturbation_survival",
    "presets",
    "price",
    "random",
    "refresh_mask",
    "rise",
    "sam",
    "sam_on",
    "sl_sam",
    "sparse_sam",
    "split_loss",
    "stable_sam",
    "stacked",
    "stale",
    "suggest_rho",
    "value_and_grad",
    "vasso",
    "with_parts",
    "wsam",
    "zsharp",
]
