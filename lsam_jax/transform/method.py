"""The orthogonal choices that make a method, and what one step reads from them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax import arguments
from lsam_jax.components.ascent import Ascent
from lsam_jax.components.cadence import Cadence
from lsam_jax.components.combination import Combination
from lsam_jax.components.context import StepContext
from lsam_jax.components.descent import Descent
from lsam_jax.components.perturbation import Perturbation
from lsam_jax.components.radius import Radii
from lsam_jax.components.selector import Choice, Selector, candidates_of, select
from lsam_jax.devices.collectives import Axes
from lsam_jax.engine.network import Network
from lsam_jax.layers.leaves import Layers
from lsam_jax.layers.partition import LayerSpec, partition
from lsam_jax.transform.state import Memory, SamState, check_state


class Method(NamedTuple):
    """The orthogonal choices that make a method; see `lsam_jax.methods`.

    Attributes:
      layers: how the parameters are cut into layers.
      selector: which layers are perturbed.
      k: how many; None if the selector needs no number.
      ascent: uphill by what.
      perturbation: how far they move.
      rho: the radius.
      descent: what the second pass differentiates.
      combination: what is descended.
      alpha: the weight that the combination uses.
      cadence: when a step perturbs.
      norm_decay: of the running mean of the stored norms; 0 stores the last one.
      select_every: steps between selections.
      cuts: where the engine may cut.
      gate: whether it skips weight gradients by conditionals; None: where that pays.
      axes: of the devices that take a step together.
    """

    layers: LayerSpec
    selector: Selector
    k: Any
    ascent: Ascent
    perturbation: Perturbation
    rho: Radii
    descent: Descent
    combination: Combination
    alpha: arguments.Scalar
    cadence: Cadence
    norm_decay: Any
    select_every: Any
    cuts: arguments.Cuts
    gate: bool | None
    axes: Axes


def layers_of(method: Method, params: Any) -> Layers:
    """Cuts `params` into layers, and checks that the method fits them."""
    layers = partition(params, method.layers)
    check_together(method)
    if not layers.names:  # what stands for any parameters fits every method
        return layers
    method.selector.check(layers.names)
    arguments.check_cut_names(method.cuts, layers.names)
    method.rho.check(layers.names)
    if method.ascent.fresh is not None:
        arguments.check_layer_names("fresh", [method.ascent.fresh], layers.names)
    k = method.k
    if k is not None and arguments.is_concrete(k) and int(k) > len(layers.names):
        raise ValueError(
            f"k={int(k)} is more than the {len(layers.names)} layers that there are "
            f"({', '.join(layers.names)}); k must be at most {len(layers.names)}."
        )
    return layers


def check_together(method: Method) -> None:
    """Raises a ValueError if parts of the method do not go together."""
    ascent, selector = method.ascent, method.selector
    if ascent.estimate is not None and not ascent.uses_loss:
        check_no_clean_pass(method)
    others = ascent.estimate is not None or method.descent.second is not None
    if method.cadence.decide is not None and others:
        raise ValueError(
            "a cadence that decides by the clean gradient (ae_sam) climbs it, and descends the "
            "loss, so no other ascent or descent goes with it (adazo_sam, gam, functional_sam, "
            "esam with gamma below 1): use when=every(2) or bernoulli(0.5), say."
        )
    chooses = any(rule is not None for rule in (selector.score, selector.draw, selector.select))
    if ascent.fresh is not None and chooses:
        raise ValueError(
            f"fresh={ascent.fresh!r} needs the layers that move to be known before a step is "
            "compiled, and the selection of this method chooses them in each step: pass it "
            'selection="all" or a list of layer names, or leave fresh out.'
        )


def check_no_clean_pass(method: Method) -> None:
    """Raises a ValueError if the method needs a clean pass, which its ascent does not make."""
    if method.descent.second is not None:
        raise ValueError(
            "ascent=... makes no clean pass, but this method takes outputs or losses from it "
            "(functional_sam, esam with gamma below 1): use another method, or esam(gamma=1)."
        )
    if method.combination.uses_clean:
        raise ValueError(
            "ascent=... computes no clean gradient, but this method descends on a mix of it and "
            "the perturbed one (alpha other than 1, gsam, stable_sam, look_sam): pass alpha=1, or "
            "use a method that descends on the perturbed one alone, such as sam."
        )
    if method.cadence.decide is not None:
        raise ValueError(
            "ascent=... computes no clean gradient, but this method decides by it when to perturb "
            "(ae_sam): use sam, and when=every(2) or bernoulli(0.5), say."
        )
    if not method.combination.descend_unselected:
        raise ValueError(
            "ascent=... computes no clean gradient, but the layers of this method are drawn by "
            "what it was, and have no direction where they were not drawn (sl_sam): use "
            "layerwise_sam."
        )


def initial_memory(method: Method, layers: Layers, params: Any) -> Memory:
    """What the parts of a method remember before the first step."""

    def memory(params: Any) -> Memory:
        leaves = [jnp.asarray(x) for x in layers.leaves(params)]
        return Memory(
            selection=method.selector.init(layers, leaves),
            ascent=method.ascent.init(layers, leaves),
            perturbation=method.perturbation.init(layers, leaves),
            combination=method.combination.init(layers, leaves),
            cadence=method.cadence.init(layers, leaves),
            radius=method.rho.init(layers, leaves),
        )

    # Pieces of stacked arrays would take as much memory as the parameters; compiled, they do not.
    return jax.jit(memory)(params) if any(len(of) > 1 for of in layers.pieces) else memory(params)


def state_of(method: Method, layers: Layers, params: Any, state: Any) -> SamState:
    """The state that a user gave, checked."""
    memory = jax.eval_shape(lambda: initial_memory(method, layers, params))
    return check_state(state, layers, memory)


def choose(
    method: Method, network: Network, state: SamState
) -> tuple[np.ndarray, np.ndarray | jax.Array, SamState]:
    """The candidates and the selected layers of a step, and the state with this choice in memory.

    See `selector.select`.
    """
    choice = Choice(
        norms=state.norms,
        count=state.count,
        k=arguments.resolve(method.k, state.count),
        candidates=candidates_of(method.selector, network),
        network=network,
        memory=state.memory.selection,
        last=state.selected,
        steps=method.select_every,
    )
    candidates, selected, memory = select(method.selector, choice)
    if not isinstance(selected, np.ndarray) and arguments.static_int(method.select_every) != 1:
        # A step that has perturbed nothing has left no choice to go on with.
        anew = (state.count % method.select_every == 0) | ~jnp.any(state.selected)
        selected = jnp.where(anew, selected, state.selected)
    return candidates, selected, state._replace(memory=state.memory._replace(selection=memory))


def numbers(method: Method, layers: Layers, state: SamState) -> StepContext:
    """The numbers of a step; the radius comes with its ascent gradient."""
    return StepContext(state.count, None, arguments.resolve(method.alpha, state.count), layers)


def check_climbs_another_loss(method: Method) -> None:
    """Raises unless the method can climb another loss than it descends.

    Raises:
      ValueError: for a method that has no ascent gradient, or needs the clean pass of the loss that
        it descends.
    """
    ascent, descent = method.ascent, method.descent
    if ascent.fresh is not None:
        why = (
            f"fresh={ascent.fresh!r} shares one pass through the front of the network between "
            "ascent and descent, which must see the same samples"
        )
    elif ascent.estimate is not None and not ascent.uses_loss:
        why = "it climbs along what it remembers, and computes no ascent gradient"
    elif descent.prepare is not None or descent.second is not None:
        why = "its second pass needs a clean pass of the same samples"
    elif method.cadence.decide is not None:
        why = "it decides by the clean gradient of the whole batch whether to perturb"
    else:
        return
    raise ValueError(
        f"ascent_batch (or ascent_fn) makes no sense for this method: {why}. Leave it out, or take "
        "sam, layerwise_sam, asam or another method that climbs its gradient."
    )


def shares_passes(method: Method) -> bool:
    """Whether a cut could save something: two passes, or gradients that nobody asks for."""
    return method.ascent.uses_loss or not method.combination.descend_unselected


def checked(
    method: Method, params: Any, state: Any
) -> tuple[Layers, Sequence[jax.Array], SamState]:
    """The layers and the arrays of `params`, and the state; raises unless they fit the method."""
    method.axes.check_bound()
    layers = layers_of(method, params)
    arrays = [jnp.asarray(x) for x in layers.treedef.flatten_up_to(params)]
    return layers, method.axes.per_device_params(arrays), state_of(method, layers, params, state)
