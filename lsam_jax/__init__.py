"""Layer-wise sharpness-aware minimization for JAX, at close to the price of SGD."""

from lsam_jax.inspection import Inspection, LayerCost, inspect
from lsam_jax.layers import layer_names
from lsam_jax.methods import generalized_sam, layerwise_sam, sam
from lsam_jax.selection import Selector, budget, everything, fixed, high, low, nothing, random
from lsam_jax.state import SamState
from lsam_jax.transform import SamTransformation, value_and_grad

__version__ = "0.1.0"

__all__ = [
    "Inspection",
    "LayerCost",
    "SamState",
    "SamTransformation",
    "Selector",
    "budget",
    "everything",
    "fixed",
    "generalized_sam",
    "high",
    "inspect",
    "layer_names",
    "layerwise_sam",
    "low",
    "nothing",
    "random",
    "sam",
    "value_and_grad",
]
