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
| SL-SAM | | the bandit depends on the scale of the loss |
"""

from typing import Any

from lsam_jax import distances, drawn, methods
from lsam_jax.transform import SamTransformation


def layerwise_sam_paper(k: Any = 4, rho: Any = 0.1, alpha: Any = 0.8) -> SamTransformation:
    """Lee 2024, eq. 6 and its CIFAR recipe: kernels, eps = rho g, not normalised."""
    return methods.layerwise_sam(k, rho, alpha, layers="kernel", normalize=False)


def layerwise_sam_code(k: Any = 4, rho: Any = 0.1, alpha: Any = 0.8) -> SamTransformation:
    """The same, normalised as in the author's related code: by the norm over what is selected."""
    return methods.layerwise_sam(k, rho, alpha, layers="kernel", normalize=True)


def generalized_sam_code(rho: Any = 0.1, alpha: Any = 0.8) -> SamTransformation:
    """Generalized SAM of the author's related code: kernels only, by the norm over all of them."""
    return methods.generalized_sam(rho, alpha, layers="kernel", normalize=True)


def sam_foret(rho: Any = 0.05) -> SamTransformation:
    """SAM as Foret et al. run it: every array, by the global norm."""
    return methods.sam(rho)


def asam_code(rho: Any = 0.5, eta: Any = 0.01) -> SamTransformation:
    """ASAM as its authors' code has it: T = |w| + eta for all arrays but the biases."""
    return distances.asam(rho, eta, scaled="weights")


def asam_kernels(rho: Any = 0.5, eta: Any = 0.01) -> SamTransformation:
    """ASAM that scales kernels only: normalisation layers are treated like biases."""
    return distances.asam(rho, eta, scaled="kernels")


def esam_paper(
    rho: Any = 0.05, beta: Any = 0.6, gamma: float = 0.5, seed: int = 0
) -> SamTransformation:
    """ESAM as the paper writes it: single weights are drawn."""
    return drawn.esam(rho, beta, gamma, weights=True, seed=seed)


def esam_code(
    rho: Any = 0.05, beta: Any = 0.6, gamma: float = 0.5, seed: int = 0
) -> SamTransformation:
    """ESAM as its authors' code has it: arrays are drawn, and the norm is over those drawn."""
    return drawn.esam(rho, beta, gamma, seed=seed)


def sl_sam_code(rho: Any = 0.01, active: float = 0.2, seed: int = 0) -> SamTransformation:
    """SL-SAM as its authors' code has it: the bandit learns from the norms as they are."""
    return drawn.sl_sam(rho, active, rate=1e-3, scale_free=False, seed=seed)


def sl_sam_scale_free(rho: Any = 0.01, active: float = 0.2, seed: int = 0) -> SamTransformation:
    """SL-SAM whose bandit learns from norms relative to each other, whatever the loss's scale."""
    return drawn.sl_sam(rho, active, rate=1e-3, scale_free=True, seed=seed)
