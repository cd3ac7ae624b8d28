"""SAM-ON: perturbs the normalization layers alone."""

from typing import Unpack

from lsam_jax.components import perturbation
from lsam_jax.components.radius import Radius
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.options import DeviceOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def sam_on(
    rho: Radius = 0.5,
    *,
    layers: LayerSpec = "norm",
    normalize: bool | str = True,
    **options: Unpack[DeviceOptions],
) -> SamTransformation:
    """SAM-ON (Mueller et al. 2023): SAM whose perturbation is of normalisation layers only.

    Their scales and offsets move by rho g / ||g||, the norm over these alone; everything descends
    on the gradient there. Its radius is about ten times SAM's. https://arxiv.org/abs/2306.04226

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      layers: "norm" finds the arrays by the names of their modules; see `layer_names` for other
        ways to name them.
      normalize: as for `layerwise_sam`; False needs rho / c under loss scaling by c.
      **options: `axis_name` and `perturbation_sync`, as for `layerwise_sam`.

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
    return method(rho=rho, perturbation=perturbation.by_name(normalize), layers=layers, **options)
