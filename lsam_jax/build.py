"""From a method's parts to its transformation, checked."""

from typing import Any

import jax

from lsam_jax import arguments
from lsam_jax.arguments import Cuts, check_cuts
from lsam_jax.components import ascent, cadence, combination, descent, perturbation
from lsam_jax.components import selection as selectors
from lsam_jax.components.radius import Radius, as_radii
from lsam_jax.devices import collectives
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.recipe import Recipe
from lsam_jax.transform import SamTransformation, transformation


def build(
    *,
    rho: Radius,
    alpha: arguments.Scalar = 1.0,
    selection: Any = "all",
    k: Any = None,
    layers: LayerSpec = "array",
    ascend: ascent.Ascent = ascent.gradient,
    perturb: perturbation.Perturbation = perturbation.normalized,
    descend: descent.Descent = descent.of_loss,
    combine: combination.Combination = combination.perturbed_only,
    when: cadence.Cadence = cadence.always,
    norm_decay: Any = 0.0,
    select_every: Any = 1,
    where: Cuts = "auto",
    gate: bool | None = None,
    axis_name: collectives.AxisName = None,
    perturbation_sync: collectives.PerturbationSync = "global",
) -> SamTransformation:
    """The method of these parts; without arguments but `rho`, SAM.

    Raises:
      ValueError, TypeError: for an argument that the user got wrong, naming it.
    """
    selector = selectors.as_selector(selection)
    if k is None and selector.score is not None:
        raise ValueError("k is None, but this selection needs a number of layers; pass k=4, say.")
    if k is not None:
        arguments.check_count("k", k, low=0)
    radius = as_radii("rho", rho)
    arguments.check_real("alpha", alpha)
    arguments.check_real("norm_decay", norm_decay, low=0.0, below=1.0)
    arguments.check_count("select_every", select_every, low=1)
    check_cuts(where)
    if gate not in (None, True, False):
        raise ValueError(f"gate must be True, False or None (by platform); got gate={gate!r}.")
    return transformation(
        Recipe(
            layers=layers,
            selector=selector,
            k=k,
            ascent=ascend,
            perturb=perturb,
            rho=radius,
            descent=descend,
            combine=combine,
            alpha=alpha,
            cadence=when,
            norm_decay=norm_decay,
            select_every=select_every,
            cuts=where,
            gate=_gate_by_platform() if gate is None else gate,
            axes=collectives.axes(axis_name, perturbation_sync),
        )
    )


def _gate_by_platform() -> bool:
    # On a GPU a conditional is a round trip to the host, unless XLA captures it in a CUDA graph,
    # which jax < 0.10 does not.
    return jax.default_backend() != "gpu" or jax.__version_info__ >= (0, 10)
