"""Methods that move the weights another distance: relative to them, or only some of them.

Each takes two gradients in every step. Where a method has `k` and `selection`, they and `layers`
say which layers are perturbed, as in `layerwise_sam`; by default all arrays are. So `asam(0.5,
k=4, selection="high", layers="kernel")` is a layer-wise ASAM.
"""

from collections.abc import Callable
from typing import Any

from lsam_jax import arguments, sparse
from lsam_jax.components import perturbation
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import AxisName, PerturbationSync, axes
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, build

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
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """ASAM (Kwon et al. 2021, eq. 9): descends on the gradient at w + rho T^2 g / ||T g||.

    T is |w| + eta for a weight and 1 for a bias, so that the radius is measured in units of the
    weights. https://arxiv.org/abs/2102.11600

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      eta: added to |w|, at least 0.
      scaled: what has T = |w| + eta: "weights" (the authors' code: all but biases, so the scales
        of normalisation layers too), "kernels" (arrays of rank > 1 only), "all", or a function
        of a path.
      k: how many layers, if the selection needs a number.
      selection: which layers are perturbed, as for `layerwise_sam`.
      layers: how the parameters are cut into layers; see `layer_names`.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.asam(rho=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 3) for x in direction.tolist()]  # the larger weight moves further than in SAM
    [3.738, 5.747]
    """
    arguments.check_real("eta", eta, low=0.0)
    perturb = perturbation.adaptive(eta, _scaling(scaled))
    return build(
        rho=rho,
        perturb=perturb,
        k=k,
        selection=selection,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


def sam_on(
    rho: Radius = 0.5,
    *,
    layers: LayerSpec = "norm",
    normalize: bool | str = True,
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """SAM-ON (Mueller et al. 2023): SAM whose perturbation is of normalisation layers only.

    Their scales and offsets move by rho g / ||g||, the norm over these alone; everything descends
    on the gradient there. Its radius is about ten times SAM's. https://arxiv.org/abs/2306.04226

    Args:
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      layers: "norm" finds the arrays by the names of their modules; see `layer_names` for other
        ways to name them.
      normalize: as for `layerwise_sam`; False needs rho / c under loss scaling by c.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"Dense": {"kernel": jnp.asarray(3.0)}, "LayerNorm": {"scale": jnp.asarray(4.0)}}
    >>> loss_fn = lambda p: (p["Dense"]["kernel"] ** 2 + p["LayerNorm"]["scale"] ** 2) / 2
    >>> tx = lsam.sam_on(rho=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(params, tx.init(params))
    >>> float(direction["Dense"]["kernel"]), float(direction["LayerNorm"]["scale"])
    (3.0, 4.5)
    """
    return build(
        rho=rho,
        perturb=perturbation.by_name(normalize),
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
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
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
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
      rho: the radius; a number, a schedule, `per_layer` or `bounded` radii.
      sparsity: the share of weights that are never moved, in [0, 1). 0 is SAM.
      dynamic: how the mask changes.
      every: with `dynamic`, steps between changes.
      drop: with `dynamic`, that share; a number or a schedule (the authors' is
        `optax.cosine_decay_schedule(0.5, steps)`).
      seed: of what is random.
      layers: how the parameters are cut into layers; the weights of all of them compete.
      axis_name: the axis of devices to average over, as for `layerwise_sam`.
      perturbation_sync: which devices share a perturbation, likewise.

    Returns:
      A transformation whose state holds one bool for each weight.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it; or if `dynamic` meets
        devices that perturb apart.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.ones(4), lambda w: jnp.sum(w**2) / 2
    >>> tx = lsam.sparse_sam(rho=2.0, sparsity=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> sorted(direction.tolist())  # two of four weights are moved, by 2 w / ||w||
    [1.0, 1.0, 2.0, 2.0]
    """
    arguments.check_real("sparsity", sparsity, low=0.0, below=1.0)
    if not arguments.is_concrete(sparsity):
        raise TypeError("sparsity decides the size of a mask, so it must be a plain number.")
    arguments.check_count("every", every, low=1)
    arguments.check_real("drop", drop, low=0.0, most=1.0)
    if dynamic and axes(axis_name, perturbation_sync).apart:
        raise ValueError(
            f"perturbation_sync={perturbation_sync!r} with dynamic=True would let every device "
            'change the mask by a gradient of its own; pass perturbation_sync="global".'
        )
    perturb = (
        sparse.drop_and_grow(sparsity, every, lambda count: arguments.resolve(drop, count), seed)
        if dynamic
        else sparse.masked(sparsity, seed)
    )
    return build(
        rho=rho,
        perturb=perturb,
        layers=layers,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )


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
