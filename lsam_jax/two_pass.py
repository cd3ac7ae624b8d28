"""The engine: the clean and the perturbed gradient of a step, with nothing computed twice.

Layers in front of the first perturbed one see the same weights in both passes. So the loss is
cut there; the prefix runs once, forward and backward, and serves both. Three things follow from
what is known before compilation:

- the layers to perturb are known: one cut, and only their gradients in the ascent;
- only the candidates are known: a few static cuts, one `lax.switch` that takes the latest cut
  in front of the first selected layer, and the weight gradients of unselected layers gated;
- nothing is perturbed: the plain gradient.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.convolutions import canonical_convolutions, holds_convolution
from lsam_jax.gating import gated_value_and_grad
from lsam_jax.program import Program, cut

Leaves = Sequence[Any]


class Passes(NamedTuple):
    """What the engine computes.

    Attributes:
      loss: the clean loss.
      aux: the leaves of aux, from the clean pass.
      perturbed_loss: the loss at the perturbed weights.
      result: what `finish` made of the two gradients.
    """

    loss: Any
    aux: list[Any]
    perturbed_loss: Any
    result: Any


class Method(NamedTuple):
    """What the engine does not decide.

    Attributes:
      perturb: from the ascent gradients, the weights and the layers of the arrays that may move
        (three lists) to the weights moved.
      finish: from the ascent gradients `g` and the descent gradients `h` of all arrays to any
        pytree; `g` has None for an array that cannot move, and zeros for one that did not.
    """

    perturb: Callable[[Leaves, Leaves, Sequence[int]], Leaves]
    finish: Callable[[Leaves, Leaves], Any]


def two_pass(
    program: Program,
    leaves: Leaves,
    of_leaf: Sequence[int],
    position: np.ndarray,
    candidates: np.ndarray,
    selected: np.ndarray | jax.Array,
    cuts: Callable[[], Sequence[int]],
    gate: bool,
    method: Method,
) -> Passes:
    """Both passes of one step.

    Args:
      program: the loss.
      leaves: the parameters.
      of_leaf: the layer of each, or -1.
      position: i64[L], the place of each layer in the network.
      candidates: bool[L], static; the layers that may be selected.
      selected: bool[L]; static if a NumPy array.
      cuts: gives the positions at which to cut, ascending; asked only if there is a choice.
      gate: whether to skip the weight gradients of unselected layers by conditionals.
      method: how to perturb and what to make of the gradients.
    """
    if not candidates.any():
        (loss, aux), h = jax.value_and_grad(program.run, has_aux=True)(list(leaves))
        return Passes(loss, aux, loss, method.finish([None] * len(leaves), h))

    # A function from the arrays that may move to both passes, for a static first position.
    def at(first: int, ascent: Callable[..., Any], wanted: Any, leaves: Leaves) -> Passes:
        late = candidates & (position >= first)
        in_suffix = [i >= 0 and bool(late[i]) for i in of_leaf]
        return _at_cut(program, leaves, of_leaf, in_suffix, partial(ascent, wanted), method)

    if isinstance(selected, np.ndarray):
        return at(0, _ascent, None, leaves)
    slow_inside = jax.default_backend() == "cpu" and holds_convolution(program.closed.jaxpr)
    in_conditional: Callable[[Any], Any] = canonical_convolutions if slow_inside else _as_it_is
    places = list(cuts())
    if len(places) == 1:
        ascent = partial(gated_value_and_grad, gate=gate, inside=in_conditional)
        return at(places[0], ascent, selected, leaves)
    ascent = partial(gated_value_and_grad, gate=gate, inside=_as_it_is)
    branches = [in_conditional(partial(at, place, ascent)) for place in places]
    first_selected = jnp.min(jnp.where(selected, jnp.asarray(position), len(position)))
    branch = jnp.searchsorted(jnp.asarray(places), first_selected, side="right") - 1
    return jax.lax.switch(branch, branches, selected, list(leaves))


def _at_cut(
    program: Program,
    leaves: Leaves,
    of_leaf: Sequence[int],
    in_suffix: Sequence[bool],
    ascent: Callable[..., tuple[Any, list[Any], list[Any]]],
    method: Method,
) -> Passes:
    """Both passes if only the suffix may be perturbed."""
    prefix_params = [x for x, late in zip(leaves, in_suffix) if not late]
    suffix_params = [x for x, late in zip(leaves, in_suffix) if late]
    group = [i for i, late in zip(of_leaf, in_suffix) if late]
    prefix, suffix = cut(program, leaves, in_suffix)
    hidden, pull_back, fixed = jax.vjp(prefix, prefix_params, has_aux=True)

    def loss_of(hidden: Leaves, params: Leaves) -> tuple[Any, list[Any]]:
        return suffix(hidden, fixed, params)

    loss, aux, g = ascent(partial(loss_of, hidden), suffix_params, group)
    moved = method.perturb(g, suffix_params, group)
    (perturbed_loss, _), (h_hidden, h_suffix) = jax.value_and_grad(
        loss_of, argnums=(0, 1), has_aux=True
    )(hidden, moved)
    (h_prefix,) = pull_back(h_hidden)
    g_of, h_of = iter(g), (iter(h_prefix), iter(h_suffix))
    all_g = [next(g_of) if late else None for late in in_suffix]
    all_h = [next(h_of[late]) for late in in_suffix]
    return Passes(loss, aux, perturbed_loss, method.finish(all_g, all_h))


def _ascent(
    wanted: None, loss_of: Callable[[Leaves], Any], params: Leaves, group: Sequence[int]
) -> tuple[Any, list[Any], list[Any]]:
    (loss, aux), g = jax.value_and_grad(loss_of, has_aux=True)(list(params))
    return loss, aux, g


def _as_it_is(fun: Callable[..., Any]) -> Callable[..., Any]:
    return fun
