"""Tools to look at sharpness; arrays come out, and nothing is drawn.

- `layer_landscape`, `model_landscape`: the loss in a plane, with `PAPER_STEPS` for a grid
- `sam_ball`: how much the loss rises at a small distance
- `hessian_eigenvalues`, `hessian_trace`, `hessian_vector_product`: its curvature
- `gradient_norms`, `layer_norms`, `NormRecorder`: the gradient, layer by layer
- `distance_between`: how far two networks are from each other

All take a loss as JAX users write it, `loss_fn(params, *args)`, and optionally `batches`: then the
loss is the mean of `loss_fn(params, batch, *args)` over them.
"""

from lsam_jax.diagnostics.ball import Ball, sam_ball
from lsam_jax.diagnostics.distance import Distance, Distances, distance_between
from lsam_jax.diagnostics.eigenvalues import hessian_eigenvalues
from lsam_jax.diagnostics.gradient_norms import NormRecorder, gradient_norms, layer_norms
from lsam_jax.diagnostics.hessian import hessian_vector_product
from lsam_jax.diagnostics.landscape import (
    PAPER_STEPS,
    Landscape,
    layer_landscape,
    model_landscape,
)
from lsam_jax.diagnostics.trace import Trace, hessian_trace

__all__ = [
    "PAPER_STEPS",
    "Ball",
    "Distance",
    "Distances",
    "Landscape",
    "NormRecorder",
    "Trace",
    "distance_between",
    "gradient_norms",
    "hessian_eigenvalues",
    "hessian_trace",
    "hessian_vector_product",
    "layer_landscape",
    "layer_norms",
    "model_landscape",
    "sam_ball",
]
