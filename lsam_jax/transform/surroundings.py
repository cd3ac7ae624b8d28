"""What stands around a method in the update that is being made, as far as it can be told.

A transformation is given gradients, a state and parameters, and nothing says whose `update` calls
its own. Two mistakes change the numbers without an error, so for these the calls in progress are
looked at: is one of them `optax.MultiSteps.update`, or that of a chain in which something comes
first? Both are recognised by their code. Under `jit` that happens once, while a step is traced.
"""

import functools
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

import jax
import optax

from lsam_jax import arguments
from lsam_jax.transform.state import SamState

ACCUMULATED = (
    "optax.MultiSteps stands around this transformation. It makes an update in every small step, "
    "of the loss of that step alone, and keeps the last one only. Two ways are right. The mean of "
    "the directions: MultiSteps around the base optimizer, optax.chain(sam(...), "
    "optax.MultiSteps(base, 4).gradient_transformation()). The direction of the mean loss: no "
    "MultiSteps, and accumulate inside the loss or gradient, as optax.microbatching.microbatch "
    "does, update(grads, state, params, grad_fn=microbatched_gradient)."
)

IN_FRONT = (
    "Something stands in front of this transformation in its optax.chain. With value_fn the "
    "gradients that it changes are not used, so it does nothing to the direction. Put it behind, "
    "optax.chain(sam(...), optax.clip_by_global_norm(1.0), optax.sgd(0.1)). If it only looks on, "
    "put it behind too, or silence this warning."
)


def check_surroundings(state: Any, by_loss: bool) -> None:
    """Raises if `optax.MultiSteps` accumulates around this update; warns of what has no effect.

    Args:
      state: the state that the update was given.
      by_loss: whether it computes its gradients itself, and uses none that it is given.

    Raises:
      ValueError: in `MultiSteps` of more than one small step, or of a number that is not known.
    """
    for frame in _callers():
        if frame.f_code is optax.MultiSteps.update.__code__:
            if _holds_a_method(frame) and not _takes_one_step(frame):
                raise ValueError(ACCUMULATED)
        elif by_loss and frame.f_code in _of_chains() and not _is_first(state, frame):
            warnings.warn(IN_FRONT, UserWarning, stacklevel=2)
            return


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _holds_a_method(multi_steps: FrameType) -> bool:
    """Whether it is one that wraps a method, and not one that trains what trains by a method."""
    inner = multi_steps.f_locals["state"].inner_opt_state
    nodes = jax.tree.leaves(inner, is_leaf=lambda node: isinstance(node, SamState))
    return any(isinstance(node, SamState) for node in nodes)


def _takes_one_step(multi_steps: FrameType) -> bool:
    # Optax's own name. Where there is none, or the number is traced, it may be any.
    steps = multi_steps.f_locals.get("k_steps")
    return steps is not None and arguments.is_concrete(steps) and bool(steps == 1)


@functools.cache
def _of_chains() -> tuple[CodeType, ...]:
    """The code of `update` of every chain, which all of them share."""
    nothing = optax.identity()
    chains: Any = (optax.chain(nothing), optax.named_chain(("nothing", nothing)))
    return tuple(chain.update.__code__ for chain in chains)


def _is_first(state: Any, chain: FrameType) -> bool:
    """Whether an array of `state` is one of the chain's first member, or of none that is known."""
    members = chain.f_locals.get("state")
    members = list(members.values() if isinstance(members, Mapping) else members or ())
    own = {id(x) for x in jax.tree.leaves(state)}
    holds = [any(id(x) in own for x in jax.tree.leaves(member)) for member in members]
    return not any(holds[1:]) or holds[0]
