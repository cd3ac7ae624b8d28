"""Layer-wise sharpness-aware minimization for JAX, at close to the price of SGD."""

from lsam_jax import presets
from lsam_jax.bandit import bandit
from lsam_jax.cheaper import adazo_sam, ae_sam, look_sam, momentum_sam
from lsam_jax.data_parallel import data_parallel
from lsam_jax.directions import functional_sam, gam, gsam, stable_sam
from lsam_jax.distances import asam, sam_on, sparse_sam
from lsam_jax.drawn import esam, sl_sam
from lsam_jax.fisher import empirical_fisher, refresh_mask
from lsam_jax.freezing import freeze_inactive
from lsam_jax.inspection import Inspection, LayerCost, inspect
from lsam_jax.layers import layer_names
from lsam_jax.losses import per_sample, split_loss
from lsam_jax.methods import generalized_sam, layerwise_sam, sam
from lsam_jax.radii import per_layer
from lsam_jax.rounding import perturbation_survival
from lsam_jax.selection import (
    Selector,
    budget,
    everything,
    fixed,
    high,
    independent,
    low,
    nothing,
    random,
)
from lsam_jax.stacks import stacked
from lsam_jax.state import Memory, SamState
from lsam_jax.transform import SamTransformation, value_and_grad

__version__ = "0.1.0"

__all__ = [
    "Inspection",
    "LayerCost",
    "Memory",
    "SamState",
    "SamTransformation",
    "Selector",
    "adazo_sam",
    "ae_sam",
    "asam",
    "bandit",
    "budget",
    "data_parallel",
    "empirical_fisher",
    "esam",
    "everything",
    "fixed",
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
    "per_layer",
    "per_sample",
    "perturbation_survival",
    "presets",
    "random",
    "refresh_mask",
    "sam",
    "sam_on",
    "sl_sam",
    "sparse_sam",
    "split_loss",
    "stable_sam",
    "stacked",
    "value_and_grad",
]
