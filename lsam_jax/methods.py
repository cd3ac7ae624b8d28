"""The methods, each a few lines: which layers, how far, what to descend."""

from typing import Any

import jax
import numpy as np

from lsam_jax import arguments, combination, cuts, perturbation
from lsam_jax import selection as selectors
from lsam_jax.layers import LayerSpec
from lsam_jax.step import Recipe
from lsam_jax.transform import SamTransformation


def layerwise_sam(
    k: Any,
    rho: arguments.Scalar,
    alpha: arguments.Scalar = 1.0,
    *,
    selection: Any = "high",
    layers: LayerSpec = "kernel",
    normalize: bool | str = False,
    norm_decay: float = 0.0,
    select_every: int = 1,
    cuts: cuts.Cuts = "auto",
    gate: bool | None = None,
) -> SamTransformation:
    """Layer-wise SAM (Lee, KDD 2024, Algorithm 1): perturbs the k layers of largest gradient norm.

    With S the k layers whose stored norm is largest, g the gradient at w and h the gradient at
    w', which is w + rho g on S and w elsewhere, the direction of descent is
    (1 - alpha) g + alpha h on S and h elsewhere. The norms of h are stored for the next step.
    Ties (at the first step all norms are 0) go to the layer nearest the output.

    Args:
      k: how many layers to perturb, 0 to L; a whole number or a schedule of the step count.
        Selections that need no number ("all", "none", a list) do not use it; it may be None.
      rho: the radius, at least 0 (the paper's r); a number or a schedule.
      alpha: the weight of h; a number or a schedule. 1 is SAM's, the paper trains with 0.7, 0.8.
      selection: "high", "low", "random" (the paper, Table 3), "all", "none", a list of layer
        names, or a selector, e.g. `budget(0.1)`.
      layers: how the parameters are cut into L layers; see `layer_names`.
      normalize: False: eps = rho g (the paper, eq. 6). True: eps = rho g / ||g||, the norm over
        the selected layers. "layer": each selected layer by its own norm.
      norm_decay: stores the running mean `decay * old + (1 - decay) * new` of the norms, for a
        steadier choice; in [0, 1).
      select_every: chooses anew every so many steps only.
      cuts: where the engine may cut the network, each cut a copy of the step to compile and
        one branch of a conditional: "auto" (at most four, by counted cost), a number (at most so
        many), or a list of layer names (the first layer is added: any may be selected).
      gate: whether the weight gradients of unselected layers are skipped by a conditional each;
        None does so except on a GPU with a JAX older than 0.10, which waits for each one.

    Returns:
      An Optax transformation, to be chained in front of a base optimizer or to be given to
      `value_and_grad`; its state is a `SamState`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import optax
    >>> tx = layerwise_sam(k=4, rho=0.1, alpha=0.8)
    >>> optimizer = optax.chain(tx, optax.sgd(0.1, momentum=0.9))
    """
    selector = selectors.as_selector(selection)
    if k is None and selector.score is not None:
        raise ValueError("k is None, but this selection needs a number of layers; pass k=4, say.")
    return _build(
        layers, selector, k, perturbation.by_name(normalize), rho, alpha, norm_decay, select_every,
        cuts, gate,
    )  # fmt: skip


def generalized_sam(
    rho: arguments.Scalar = 0.1,
    alpha: arguments.Scalar = 0.8,
    *,
    layers: LayerSpec = lambda path: path,
    normalize: bool | str = True,
) -> SamTransformation:
    """Generalized SAM, or gradient-norm penalty (Zhao et al. 2022): all layers, mixed by alpha.

    The direction is (1 - alpha) g + alpha h with h the gradient at w + rho g / ||g|| (eq. 2), or
    at w + rho g with `normalize=False` (eq. 3).

    Args:
      rho: the radius; a number or a schedule.
      alpha: the weight of h; a number or a schedule.
      layers: the parameters that are perturbed, and the layers whose norms are stored; by
        default every array is one.
      normalize: as for `layerwise_sam`.
    """
    return _build(
        layers, selectors.everything(), None, perturbation.by_name(normalize), rho, alpha, 0.0, 1,
        "auto", None,
    )  # fmt: skip


def sam(
    rho: arguments.Scalar = 0.05, *, layers: LayerSpec = lambda path: path
) -> SamTransformation:
    """SAM (Foret et al. 2021, eq. 2 and 3): descends on the gradient at w + rho g / ||g||.

    Args:
      rho: the radius; a number or a schedule.
      layers: as for `generalized_sam`.
    """
    return generalized_sam(rho, 1.0, layers=layers)


def _build(
    layers: LayerSpec,
    selector: selectors.Selector,
    k: Any,
    perturb: perturbation.Perturbation,
    rho: arguments.Scalar,
    alpha: arguments.Scalar,
    norm_decay: Any,
    select_every: Any,
    where: cuts.Cuts,
    gate: bool | None,
) -> SamTransformation:
    if k is not None:
        arguments.check_count("k", k, low=0)
    arguments.check_real("rho", rho, low=0.0)
    arguments.check_real("alpha", alpha)
    arguments.check_real("norm_decay", norm_decay, low=0.0, below=1.0)
    arguments.check_count("select_every", select_every, low=1)
    cuts.check_cuts(where)
    if gate not in (None, True, False):
        raise ValueError(f"gate must be True, False or None (by platform); got gate={gate!r}.")
    is_one = isinstance(alpha, int | float | np.number) and float(alpha) == 1.0
    return SamTransformation(
        Recipe(
            layers=layers,
            selector=selector,
            k=k,
            perturb=perturb,
            rho=rho,
            combine=combination.perturbed_only if is_one else combination.mix,
            alpha=alpha,
            norm_decay=norm_decay,
            select_every=select_every,
            cuts=where,
            gate=_gate_by_platform() if gate is None else gate,
        )
    )


def _gate_by_platform() -> bool:
    # On a GPU a conditional is a round trip to the host, unless XLA captures it in a CUDA graph,
    # which jax < 0.10 does not.
    return jax.default_backend() != "gpu" or jax.__version_info__ >= (0, 10)
