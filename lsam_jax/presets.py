"""Methods as they were published, where a paper and the code that goes with it differ.

Each is a method of this package with its arguments filled in; nothing is done here that the
method itself could not do.

| method | paper | public code |
|---|---|---|
| layer-wise SAM | eps = rho g | the author's related code: eps = rho g / norm(g) |
| generalized SAM | all parameters | the author's related code: kernels only |
| SAM | all parameters | the same (Foret et al.) |
| ASAM | weights are scaled, biases are not | the same; the scales of normalisation layers too |
| ESAM | draws single weights, norm over all | draws arrays, norm over those drawn |
| LE-SAM | the radius bound to the gradient, annealed at the end | |
| SL-SAM | | the bandit depends on the scale of the loss |

And practices: `sam_composer`, that of a training library; `layerwise_sam_recipe`, `noisy_labels`
and `clean_labels`, ours.

>>> import jax.numpy as jnp
>>> import lsam_jax as lsam
>>> w, loss_fn = jnp.asarray([[3.0, 4.0]]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
>>> for tx in (lsam.presets.layerwise_sam_paper(k=1), lsam.presets.layerwise_sam_code(k=1)):
...     loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
...     print([round(x, 3) for x in direction[0].tolist()])  # w + 0.08 w, w + 0.08 w / ||w||
[3.24, 4.32]
[3.048, 4.064]
"""

from lsam_jax.methods.practices import (
    clean_labels,
    layerwise_sam_recipe,
    le_sam,
    noisy_labels,
    sam_composer,
)
from lsam_jax.methods.published import (
    asam_code,
    asam_kernels,
    esam_code,
    esam_paper,
    generalized_sam_code,
    layerwise_sam_code,
    layerwise_sam_paper,
    sam_foret,
    sl_sam_code,
    sl_sam_scale_free,
)

__all__ = [
    "asam_code",
    "asam_kernels",
    "clean_labels",
    "esam_code",
    "esam_paper",
    "generalized_sam_code",
    "layerwise_sam_code",
    "layerwise_sam_paper",
    "layerwise_sam_recipe",
    "le_sam",
    "noisy_labels",
    "sam_composer",
    "sam_foret",
    "sl_sam_code",
    "sl_sam_scale_free",
]
