"""Layer-wise SAM: perturbs the k layers of largest gradient norm."""

from typing import Any

from lsam_jax.arguments import Cuts, Scalar
from lsam_jax.components import perturbation
from lsam_jax.components.combination import mixed
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import AxisName, PerturbationSync
from lsam_jax.layers.partition import LayerSpec
from lsam_jax.transform.transform import SamTransformation, method


def layerwise_sam(
    k: Any,
    rho: Radius,
    alpha: Scalar = 1.0,
    *,
    selection: Any = "high",
    layers: LayerSpec = "kernel",
    normalize: bool | str = False,
    norm_decay: float = 0.0,
    select_every: int = 1,
    cuts: Cuts = "auto",
    gate: bool | None = None,
    axis_name: AxisName = None,
    perturbation_sync: PerturbationSync = "global",
) -> SamTransformation:
    """Layer-wise SAM (Lee, KDD 2024, Algorithm 1): perturbs the k layers of largest gradient norm.

    With S the k layers whose stored norm is largest, g the gradient at w and h the gradient at
    w', which is w + rho g on S and w elsewhere, the direction of descent is
    (1 - alpha) g + alpha h on S and h elsewhere. The norms of h are stored for the next step.
    Ties (at the first step all norms are 0) go to the layer nearest the output.
    https://doi.org/10.1145/3637528.3671728

    Args:
      k: how many layers to perturb, 0 to L; a whole number or a schedule of the step count.
        Selections that need no number ("all", "none", a list) do not use it; it may be None.
      rho: the radius, at least 0 (the paper's r); a number, a schedule, `per_layer`,
        `bounded` or `rise` radii.
      alpha: the weight of h; a number or a schedule. 1 is SAM's, the paper trains with 0.7, 0.8.
      selection: "high", "low", "random" (the paper, Table 3), "all", "none", a list of layer
        names, or a selector, e.g. `budget(0.1)`.
      layers: how the parameters are cut into L layers; see `layer_names`.
      normalize: False: eps = rho g (the paper, eq. 6). True: eps = rho g / ||g||, the norm over
        the selected layers. "layer": each selected layer by its own norm. With False eps is as
        large as the loss makes it: under loss scaling by c, pass rho / c.
      norm_decay: stores the running mean `decay * old + (1 - decay) * new` of the norms, for a
        steadier choice; in [0, 1).
      select_every: chooses anew every so many steps only, and after one that perturbed nothing.
      cuts: where the engine may cut the network; between two cuts is a segment, which both passes
        skip or run as a whole, by a conditional each: "auto" (at most twelve, by counted cost), a
        number (at most so many), or a list of layer names (the first layer is added: any may be
        selected). A scan over layers is no segment but loops, cut at each iteration.
      gate: whether the weight gradients of unselected layers are skipped by a conditional each;
        None does so where that pays: not on a TPU, nor on a GPU where the loss holds a convolution
        or JAX is older than 0.10.
      axis_name: the axis (or axes) of devices over which loss and gradients are averaged, under
        `jax.pmap` or `jax.shard_map` (checked or not) or `jax.vmap`: the loss function is that of
        one device's part of the batch, and what comes back is that of the whole (aux is each
        device's own). Nothing is left to average. Leave it out under `jax.jit` with sharded
        arrays, where the loss is that of the whole batch already; see `data_parallel`.
      perturbation_sync: which devices share a perturbation. "global": all; the ascent gradient is
        averaged, as in the paper's implementation. "replica": none; each perturbs by the gradient
        of its own part of the batch (m-sharpness: Foret et al. 2021, section 4.1), nothing is sent
        in the first pass, and directions, norms and sharpness are averaged at the end. A number
        m: groups of m neighbours along the axis. A name, or names, of axes: devices that differ
        only along these. All select by the same, averaged, norms.

    Returns:
      An Optax transformation, to be chained in front of a base optimizer or to be given to
      `value_and_grad`; its state is a `SamState`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> import lsam_jax as lsam
    >>> tx = lsam.layerwise_sam(k=1, rho=0.1, alpha=0.8)
    >>> optimizer = optax.chain(tx, optax.sgd(0.1, momentum=0.9))
    >>> params = {"a": jnp.ones((1, 1)), "b": 2 * jnp.ones((1, 1))}
    >>> loss_fn = lambda p: jnp.sum(p["a"] ** 2 + p["b"] ** 2) / 2
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(params, state, params, value_fn=loss_fn)
    >>> dict(zip(lsam.layer_names(params), state[0].selected.tolist()))
    {'a': False, 'b': True}
    >>> [round(x.item(), 4) for x in updates.values()]  # -0.1, and -0.1 (0.2 * 2 + 0.8 * 2.2)
    [-0.1, -0.216]
    """
    return method(
        rho=rho,
        alpha=alpha,
        selection=selection,
        k=k,
        layers=layers,
        perturbation=perturbation.by_name(normalize),
        combination=mixed(alpha),
        norm_decay=norm_decay,
        select_every=select_every,
        cuts=cuts,
        gate=gate,
        axis_name=axis_name,
        perturbation_sync=perturbation_sync,
    )
