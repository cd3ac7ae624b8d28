"""Where among Optax's transformations a SAM method cannot stand, and what to do instead.

It must see all parameters, in the structure in which the loss takes them, and be given the loss:
wrappers that hide, flatten or pair parameters, or drop extra arguments, stand behind it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

MISSING = (
    "Neither value_fn nor grad_fn was given, so the loss at the perturbed weights cannot be had. "
    "Call update(grads, state, params, value_fn=lambda p: loss(p, batch)). If you do, something "
    "around this transformation drops it. Flax's TrainState.apply_gradients does: use "
    "lsam_jax.integrations.linen.TrainState. optax.lookahead does: compute the direction by "
    "lsam_jax.value_and_grad, and give it to lookahead as the gradient. "
    "optax.MultiSteps(...).gradient_transformation() does, in a chain: accumulate inside the loss "
    "(its mean over small batches), or put MultiSteps around the base optimizer alone."
)

FLAT = (
    "params is one vector of {size} numbers. If optax.flatten stands around this transformation, "
    "the loss gets that vector instead of the parameters, and there are no layers: put "
    "optax.flatten around the base optimizer alone, "
    "optax.chain(layerwise_sam(...), optax.flatten(base))."
)


def check_placement(params: Any) -> None:
    """Raises if a wrapper has changed what the loss would get as its parameters.

    Raises:
      ValueError: for parameters that hold `optax.MaskedNode`, or are `optax.LookaheadParams`.
    """
    if isinstance(params, optax.LookaheadParams):
        raise ValueError(
            "params is optax.LookaheadParams, a pair of which the loss takes one. Compute the "
            "direction by lsam_jax.value_and_grad at params.fast, and give it to optax.lookahead "
            "as the gradient."
        )
    nodes = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_masked)
    hidden = [path for path, node in nodes if _is_masked(node)]
    if hidden:
        where = jax.tree_util.keystr(hidden[0], simple=True, separator="/")
        raise ValueError(
            f"params holds optax.MaskedNode at {where!r}: optax.masked or optax.partition around "
            "this transformation hides parameters that the loss needs. Put it in front, "
            "optax.chain(layerwise_sam(...), optax.partition(...)), and say by its arguments "
            "layers= and selection= what may be perturbed. What does not train at all belongs "
            "outside of params: pass it to the loss as another argument, or close over it."
        )


@contextlib.contextmanager
def explained(params: Any) -> Iterator[None]:
    """Adds a note to whatever fails on parameters that are one flat vector.

    One vector may be what the user trains, so that alone is no error.
    """
    try:
        yield
    except Exception as error:
        if isinstance(params, jax.Array) and jnp.ndim(params) == 1:
            error.add_note(FLAT.format(size=params.size))
        raise


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
