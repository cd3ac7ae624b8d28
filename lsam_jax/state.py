"""The state of a SAM transformation: made, checked, advanced."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lsam_jax.layers import Layers


class SamState(NamedTuple):
    """State of a SAM transformation over L layers.

    Attributes:
      count: i32[], steps taken.
      norms: f32[L], the gradient norm of each layer, of the last descent gradient (or its running
        mean); the next selection is made from these. Only finite values enter.
      selected: bool[L], the layers that the last step perturbed.
      perturbations: i32[L], how often each layer was perturbed (the paper's Figure 5).
      sharpness: f32[], perturbed minus clean loss of the last step. Where no loss is known
        (`grad_fn`), its first-order estimate, the inner product of gradient and perturbation.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    norms: jax.Array
    selected: jax.Array
    perturbations: jax.Array
    sharpness: jax.Array


def initial_state(layers: Layers) -> SamState:
    """The state before the first step."""
    length = len(layers.names)
    return SamState(
        count=jnp.zeros((), jnp.int32),
        norms=jnp.zeros(length, jnp.float32),
        selected=jnp.zeros(length, bool),
        perturbations=jnp.zeros(length, jnp.int32),
        sharpness=jnp.zeros((), jnp.float32),
    )


def check_state(state: Any, layers: Layers) -> SamState:
    """Raises unless `state` is one for these layers."""
    if not isinstance(state, SamState):
        raise TypeError(
            f"state must be the SamState of this transformation; got {type(state).__name__}. "
            "It is tx.init(params), or this transformation's member of a chain's state."
        )
    if jnp.shape(state.norms) != (len(layers.names),):
        raise ValueError(
            f"state holds {jnp.size(state.norms)} layers, but params and layers give "
            f"{len(layers.names)} ({', '.join(layers.names)}): it was made for other parameters. "
            "Make a new one with tx.init(params)."
        )
    return state


def advance(
    state: SamState, *, selected: Any, norms: Any, decay: Any, sharpness: Any, finite: Any
) -> SamState:
    """The state after a step.

    Args:
      state: the state before it.
      selected: bool[L], the layers it perturbed.
      norms: f32[L], of its descent gradient.
      decay: of the running mean of the norms.
      sharpness: f32[].
      finite: bool[], whether its losses are finite; if they or the norms are not, the old norms
        stay, so that one bad batch does not decide later selections.
    """
    mean = jnp.where(jnp.any(state.norms > 0), decay * state.norms + (1 - decay) * norms, norms)
    finite = finite & jnp.all(jnp.isfinite(norms))
    selected = jnp.asarray(selected)
    return SamState(
        count=optax.safe_increment(state.count),
        norms=jnp.where(finite, mean, state.norms).astype(jnp.float32),
        selected=selected,
        perturbations=state.perturbations + selected.astype(jnp.int32),
        sharpness=jnp.asarray(sharpness, jnp.float32),
    )
