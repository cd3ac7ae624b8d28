"""Methods that take two gradients in every step: other distances, other directions.

Each takes the options of the algebra: `k`, `selection` and `layers` say which layers are
perturbed, as in `layerwise_sam`; by default all arrays are. So `asam(0.5, k=4, selection="high",
layers="kernel")` is a layer-wise ASAM.
"""

from collections.abc import Callable
from typing import Any

from lsam_jax import arguments, ascent, combination, descent, perturbation, sparse
from lsam_jax.build import build
from lsam_jax.layers import LayerSpec
from lsam_jax.radii import Radius
from lsam_jax.transform import SamTransformation

BIASES = ("b", "beta", "bias", "offset")
"""Last parts of a path that name a bias, in Flax, Equinox, Haiku and Keras."""


def asam(
    rho: Radius = 0.5,
    eta: Any = 0.01,
    *,
    scaled: str | Callable[[str], bool] = "weights",
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
) -> SamTransformation:
    """ASAM (Kwon et al. 2021, eq. 9): descends on the gradient at w + rho T^2 g / ||T g||.

    T is |w| + eta for a weight and 1 for a bias, so that the radius is measured in units of the
    weights. https://arxiv.org/abs/2102.11600

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      eta: added to |w|, at least 0.
      scaled: what has T = |w| + eta: "weights" (the authors' code: all but biases, so the scales
        of normalisation layers too), "kernels" (arrays of rank > 1 only), "all", or a function
        of a path.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; see `layer_names`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.
    """
    arguments.check_real("eta", eta, low=0.0)
    perturb = perturbation.adaptive(eta, _scaling(scaled))
    return build(rho=rho, perturb=perturb, k=k, selection=selection, layers=layers)


def sam_on(
    rho: Radius = 0.5, *, layers: LayerSpec = "norm", normalize: bool | str = True
) -> SamTransformation:
    """SAM-ON (Mueller et al. 2023): SAM whose perturbation is of normalisation layers only.

    Their scales and offsets move by rho g / ||g||, the norm over these alone; everything descends
    on the gradient there. Its radius is about ten times SAM's. https://arxiv.org/abs/2306.04226

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      layers: "norm" finds the arrays by the names of their modules; see `layer_names` for other
        ways to name them.
      normalize: as for `layerwise_sam`.
    """
    return build(rho=rho, perturb=perturbation.by_name(normalize), layers=layers)


def gsam(
    rho: Radius = 0.05,
    alpha: arguments.Scalar = 0.4,
    *,
    k: Any = None,
    selection: Any = "all",
    layers: LayerSpec = "array",
) -> SamTransformation:
    """GSAM (Zhuang et al. 2022, algorithm 1): minimises the surrogate gap besides the loss.

    With g the gradient at w and h the one at w + rho g / ||g||, the direction is
    h - alpha (g - (g.h / h.h) h): less the part of g that is orthogonal to h. The authors let rho
    fall with the learning rate, which a schedule does. https://arxiv.org/abs/2203.08065

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      alpha: how much of that part is taken away; a number or a schedule. 0 is SAM.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`; the inner products are over
        these.
      layers: how the parameters are cut into layers; see `layer_names`.
    """
    return build(
        rho=rho,
        alpha=alpha,
        combine=combination.surrogate_gap,
        k=k,
        selection=selection,
        layers=layers,
    )


def stable_sam(
    rho: Radius = 0.05, *, k: Any = None, selection: Any = "all", layers: LayerSpec = "array"
) -> SamTransformation:
    """Stable SAM (Tan et al. 2024): SAM's direction with the length of the clean gradient.

    With g the gradient at w and h the one at w + rho g / ||g||, the direction is
    h ||g|| / ||h||, so that the learning rate means what it means without SAM.
    https://arxiv.org/abs/2401.07250

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`; the norms are over these.
      layers: how the parameters are cut into layers; see `layer_names`.
    """
    return build(rho=rho, combine=combination.same_norm, k=k, selection=selection, layers=layers)


def gam(
    rho: Radius = 0.1, alpha: arguments.Scalar = 0.3, *, step: float = 0.01
) -> SamTransformation:
    """GAM (Zhang et al. 2023): penalises the largest gradient norm nearby, rho max ||grad L||.

    The norm grows along f, the product of the Hessian and g / ||g||. With w' = w + rho f / ||f||
    and h the gradient of ||grad L|| there, the direction is g + alpha rho h. Both products with a
    Hessian are differences of two gradients, so a step costs four gradients.
    https://arxiv.org/abs/2303.03108

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      alpha: the weight of the penalty; a number or a schedule. 0 is the plain gradient.
      step: how far apart the two gradients of a difference are, above 0. Weights in half precision
        need a larger one, or their rounding eats it.

    Raises:
      ValueError: from `update`, if only a `grad_fn` is given.
    """
    arguments.check_real("step", step, above=0.0)
    return build(
        rho=rho,
        alpha=alpha,
        ascend=ascent.gradient_norm(step),
        descend=descent.of_gradient_norm(step),
        combine=combination.plus_penalty,
    )


def sparse_sam(
    rho: Radius = 0.05,
    sparsity: float = 0.5,
    *,
    dynamic: bool = False,
    every: Any = 100,
    drop: arguments.Scalar = 0.5,
    seed: int = 0,
    layers: LayerSpec = "array",
) -> SamTransformation:
    """Sparse SAM (Mi et al. 2022): perturbs single weights, those that a mask has.

    The direction is the gradient at w + rho m g / ||g||, the norm over all weights, with m a mask
    whose share of ones is 1 - sparsity. At first it is random. Then, by `dynamic`:

    - False (SSAM-F): the weights of the largest empirical Fisher information, whenever you say so,
      e.g. every few epochs: `sam_state = refresh_mask(tx, sam_state, empirical_fisher(...))`.
    - True (SSAM-D): every so many steps the share `drop` of the ones, those of smallest |g|, turns
      to zeros, and as many zeros, drawn at random, to ones.

    A mask saves nothing: a step costs what SAM costs. https://arxiv.org/abs/2210.05177

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      sparsity: the share of weights that are never moved, in [0, 1). 0 is SAM.
      dynamic: how the mask changes.
      every: with `dynamic`, steps between changes.
      drop: with `dynamic`, that share; a number or a schedule (the authors' is
        `optax.cosine_decay_schedule(0.5, steps)`).
      seed: of what is random.
      layers: how the parameters are cut into layers; the weights of all of them compete.

    Returns:
      A transformation whose state holds one bool for each weight.
    """
    arguments.check_real("sparsity", sparsity, low=0.0, below=1.0)
    if not arguments.is_concrete(sparsity):
        raise TypeError("sparsity decides the size of a mask, so it must be a plain number.")
    arguments.check_count("every", every, low=1)
    arguments.check_real("drop", drop, low=0.0, most=1.0)
    perturb = (
        sparse.drop_and_grow(sparsity, every, lambda count: arguments.resolve(drop, count), seed)
        if dynamic
        else sparse.masked(sparsity, seed)
    )
    return build(rho=rho, perturb=perturb, layers=layers)


def functional_sam(
    rho: Radius = 0.05, *, k: Any = None, selection: Any = "all", layers: LayerSpec = "array"
) -> SamTransformation:
    """Functional-SAM (Singh et al. 2025): the Jacobian there, the error here.

    With F the network's outputs and l their loss, the direction is J_F(w')^T dl/dF(F(w)), where
    w' = w + rho g / ||g||: only how the outputs depend on the weights is taken at the perturbed
    weights. https://arxiv.org/abs/2502.02407

    The loss must come in its two parts: `split_loss(outputs, loss)`, as the loss function of
    `value_and_grad` or, `.at(batch)`, as `value_fn`.

    Args:
      rho: the radius; a number, a schedule, or `per_layer` radii.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; see `layer_names`.

    Raises:
      TypeError: when first used, if the loss is not in two parts.
      ValueError: from `update`, if only a `grad_fn` is given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> tx = lsam.functional_sam(0.1)
    >>> loss_fn = lsam.split_loss(lambda w, x, y: x @ w, lambda out, x, y: jnp.mean((out - y) ** 2))
    >>> w, x, y = jnp.ones(2), jnp.ones((3, 2)), jnp.zeros(3)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w), x, y)
    """
    return build(rho=rho, descend=descent.of_outputs, k=k, selection=selection, layers=layers)


def _scaling(scaled: str | Callable[[str], bool]) -> Callable[[str, int], bool]:
    if callable(scaled):
        return lambda path, rank: scaled(path)
    if scaled == "weights":
        return lambda path, rank: path.rpartition("/")[2].rpartition("|")[2] not in BIASES
    if scaled == "kernels":
        return lambda path, rank: rank > 1
    if scaled == "all":
        return lambda path, rank: True
    raise ValueError(
        'scaled must be "weights", "kernels", "all" or a function of a path; got '
        f"scaled={scaled!r}."
    )
