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

from typing import Any

from lsam_jax.methods.asam import asam
from lsam_jax.methods.esam import esam
from lsam_jax.methods.layerwise_sam import layerwise_sam
from lsam_jax.methods.practices import (
    clean_labels,
    layerwise_sam_recipe,
    le_sam,
    noisy_labels,
    sam_composer,
)
from lsam_jax.methods.sam import generalized_sam, sam
from lsam_jax.methods.sl_sam import sl_sam
from lsam_jax.transform.transform import SamTransformation

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


def layerwise_sam_paper(k: Any = 4, rho: Any = 0.1, alpha: Any = 0.8) -> SamTransformation:
    """Lee 2024, eq. 6 and its CIFAR recipe: kernels, eps = rho g, not normalised.

    Args:
      k: how many layers, as for `lsam_jax.layerwise_sam`.
      rho: the radius, as for `lsam_jax.layerwise_sam`.
      alpha: the weight of the perturbed gradient, likewise.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([[3.0, 4.0]]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.layerwise_sam_paper(k=1)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 3) for x in direction[0].tolist()]  # 0.2 w + 0.8 (w + 0.1 w)
    [3.24, 4.32]
    """
    return layerwise_sam(k, rho, alpha, layers="kernel", normalize=False)


def layerwise_sam_code(k: Any = 4, rho: Any = 0.1, alpha: Any = 0.8) -> SamTransformation:
    """The same, normalised as in the author's related code: by the norm over what is selected.

    Args:
      k: how many layers, as for `lsam_jax.layerwise_sam`.
      rho: the radius, as for `lsam_jax.layerwise_sam`.
      alpha: the weight of the perturbed gradient, likewise.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([[3.0, 4.0]]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.layerwise_sam_code(k=1)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 3) for x in direction[0].tolist()]  # 0.2 w + 0.8 (w + 0.1 w / ||w||)
    [3.048, 4.064]
    """
    return layerwise_sam(k, rho, alpha, layers="kernel", normalize=True)


def generalized_sam_code(rho: Any = 0.1, alpha: Any = 0.8) -> SamTransformation:
    """Generalized SAM of the author's related code: kernels only, by the norm over all of them.

    Args:
      rho: the radius, as for `lsam_jax.generalized_sam`.
      alpha: the weight of the perturbed gradient, likewise.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"bias": jnp.asarray([5.0]), "kernel": jnp.asarray([[3.0, 4.0]])}
    >>> loss_fn = lambda p: (jnp.sum(p["bias"] ** 2) + jnp.sum(p["kernel"] ** 2)) / 2
    >>> tx = lsam.presets.generalized_sam_code()
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(params, tx.init(params))
    >>> direction["bias"].tolist(), [round(x, 3) for x in direction["kernel"][0].tolist()]
    ([5.0], [3.048, 4.064])
    """
    return generalized_sam(rho, alpha, layers="kernel", normalize=True)


def sam_foret(rho: Any = 0.05) -> SamTransformation:
    """SAM as Foret et al. run it: every array, by the global norm.

    Args:
      rho: the radius, as for `lsam_jax.sam`.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.sam_foret()
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 3) for x in direction.tolist()]  # w + 0.05 w / ||w||
    [3.03, 4.04]
    """
    return sam(rho)


def asam_code(rho: Any = 0.5, eta: Any = 0.01) -> SamTransformation:
    """ASAM as its authors' code has it: T = |w| + eta for all arrays but the biases.

    Args:
      rho: the radius, as for `lsam_jax.asam`.
      eta: added to |w|, likewise.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0]), lambda w: jnp.sum(w**2) / 2  # w: a scale, not a kernel
    >>> tx = lsam.presets.asam_code()
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> round(direction.item(), 3)  # w + 0.5 (w + 0.01)
    4.505
    """
    return asam(rho, eta, scaled="weights")


def asam_kernels(rho: Any = 0.5, eta: Any = 0.01) -> SamTransformation:
    """ASAM that scales kernels only: normalisation layers are treated like biases.

    Args:
      rho: the radius, as for `lsam_jax.asam`.
      eta: added to |w|, likewise.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0]), lambda w: jnp.sum(w**2) / 2  # w: a scale, not a kernel
    >>> tx = lsam.presets.asam_kernels()
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> round(direction.item(), 3)  # w + 0.5
    3.5
    """
    return asam(rho, eta, scaled="kernels")


def esam_paper(
    rho: Any = 0.05, beta: Any = 0.6, gamma: float = 0.5, seed: int = 0
) -> SamTransformation:
    """ESAM as the paper writes it: single weights are drawn.

    Args:
      rho: the radius, as for `lsam_jax.esam`.
      beta: the probability of each weight, likewise.
      gamma: the share of samples, likewise.
      seed: of the draws.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.ones(100), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.esam_paper(gamma=1.0)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> 0 < int((direction > 1).sum()) < 100  # some weights were moved
    True
    """
    return esam(rho, beta, gamma, weights=True, seed=seed)


def esam_code(
    rho: Any = 0.05, beta: Any = 0.6, gamma: float = 0.5, seed: int = 0
) -> SamTransformation:
    """ESAM as its authors' code has it: arrays are drawn, and the norm is over those drawn.

    Args:
      rho: the radius, as for `lsam_jax.esam`.
      beta: the probability of each array, likewise.
      gamma: the share of samples, likewise.
      seed: of the draws.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.ones(100), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.esam_code(gamma=1.0)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> int((direction > 1).sum()) in (0, 100)  # the array was moved, or not
    True
    """
    return esam(rho, beta, gamma, seed=seed)


def sl_sam_code(rho: Any = 0.01, active: float = 0.2, seed: int = 0) -> SamTransformation:
    """SL-SAM as its authors' code has it: the bandit learns from the norms as they are.

    Args:
      rho: the radius, as for `lsam_jax.sl_sam`.
      active: the mean share of layers that are drawn, likewise.
      seed: of the draws.

    >>> import jax, jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> tx = lsam.presets.sl_sam_code(active=0.9)
    >>> w = [jnp.asarray(x) for x in (1.0, 2.0, 3.0, 4.0)]
    >>> @jax.jit
    ... def learned(scale):  # from gradients this many times as large
    ...     g = [scale * x for x in w]
    ...     sam_state = tx.update(g, tx.init(w), w, grad_fn=lambda w: g)[1]
    ...     return sam_state.memory.selection.probability
    >>> bool(jnp.allclose(learned(1.0), learned(10.0)))
    False
    """
    return sl_sam(rho, active, rate=1e-3, scale_free=False, seed=seed)


def sl_sam_scale_free(rho: Any = 0.01, active: float = 0.2, seed: int = 0) -> SamTransformation:
    """SL-SAM whose bandit learns from norms relative to each other, whatever the loss's scale.

    Args:
      rho: the radius, as for `lsam_jax.sl_sam`.
      active: the mean share of layers that are drawn, likewise.
      seed: of the draws.

    >>> import jax, jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> tx = lsam.presets.sl_sam_scale_free(active=0.9)
    >>> w = [jnp.asarray(x) for x in (1.0, 2.0, 3.0, 4.0)]
    >>> @jax.jit
    ... def learned(scale):  # from gradients this many times as large
    ...     g = [scale * x for x in w]
    ...     sam_state = tx.update(g, tx.init(w), w, grad_fn=lambda w: g)[1]
    ...     return sam_state.memory.selection.probability
    >>> bool(jnp.allclose(learned(1.0), learned(10.0)))
    True
    """
    return sl_sam(rho, active, rate=1e-3, scale_free=True, seed=seed)
