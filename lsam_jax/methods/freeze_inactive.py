"""A wrapper for base optimizers that leaves inactive arrays alone, state and all."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lsam_jax.layers.leaves import Layers
from lsam_jax.layers.partition import partition
from lsam_jax.layers.stacked import Stacked


class FrozenState(NamedTuple):
    """State of `freeze_inactive`.

    Attributes:
      by_array: the base optimizer's state of each array, by its path.
    """

    by_array: dict[str, Any]


def freeze_inactive(
    base: optax.GradientTransformation, stacks: Stacked | None = None
) -> optax.GradientTransformationExtraArgs:
    """The base optimizer, except that an array whose gradient is exactly 0 stays as it is.

    Neither the array nor its part of the optimizer's state (moments, step counts, whatever it
    holds) changes, and no weight decay is applied. This is how SL-SAM leaves the layers alone
    that a step does not draw: `optax.chain(sl_sam(...), freeze_inactive(optax.adamw(1e-4)))`.

    Each array has a state of its own, so a base that looks at all arrays together (a clipping by
    the global norm) belongs in front of this wrapper, not into it. A schedule inside it counts an
    array's own steps; to follow the training's, scale behind it
    (`optax.scale_by_learning_rate(schedule)`).

    Args:
      base: any Optax optimizer.
      stacks: what the method has as `layers`, if that is `stacked(...)`: then a slice of a stacked
        array is inactive by itself.

    Returns:
      An Optax transformation, to be put behind `sl_sam` in a chain.

    Raises:
      TypeError, ValueError: unless `base` is an optimizer, `stacks` made by `stacked` or None, and
        the state, when it is used, of this transformation and of these parameters.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> import lsam_jax as lsam
    >>> tx = lsam.freeze_inactive(optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0)))
    >>> params = {"drawn": jnp.asarray(1.0), "not drawn": jnp.asarray(1.0)}
    >>> grads = {"drawn": jnp.asarray(1.0), "not drawn": jnp.asarray(0.0)}
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> {name: float(x) for name, x in optax.apply_updates(params, updates).items()}
    {'drawn': -0.5, 'not drawn': 1.0}
    """
    if not (hasattr(base, "init") and hasattr(base, "update")):
        raise TypeError(f"base must be an Optax optimizer, optax.adamw(1e-3), say; got {base!r}.")
    if not (stacks is None or isinstance(stacks, Stacked)):
        raise TypeError(f"stacks must be made by lsam.stacked, or None; got {stacks!r}.")
    inner = optax.with_extra_args_support(base)
    rule = "array" if stacks is None else dataclasses.replace(stacks, layers="array")

    def init(params: Any) -> FrozenState:
        layers = partition(params, rule).apart()
        leaves = layers.leaves(params)
        return FrozenState(
            {path: inner.init(_alone(n, layers, leaves)) for n, (path,) in enumerate(layers.paths)}
        )

    def update(
        updates: Any, state: FrozenState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, FrozenState]:
        layers = partition(updates, rule).apart()
        leaves = layers.leaves(updates)
        _check(state, [path for (path,) in layers.paths])
        weights = None if params is None else layers.leaves(params)
        out, states = [], {}
        for n, ((path,), g) in enumerate(zip(layers.paths, leaves)):
            own = None if weights is None else _alone(n, layers, weights)
            old = state.by_array[path]
            step, new = inner.update(_alone(n, layers, leaves), old, own, **extra_args)
            active = jnp.any(g != 0)
            (moved,) = jax.tree.leaves(step)
            out.append(jnp.where(active, moved, jnp.zeros_like(moved)).reshape(g.shape))
            states[path] = jax.tree.map(lambda a, b, on=active: jnp.where(on, a, b), new, old)
        return layers.tree(out), FrozenState(states)

    return optax.GradientTransformationExtraArgs(init, update)


def _check(state: Any, paths: Sequence[str]) -> None:
    if not isinstance(state, FrozenState):
        raise TypeError(
            f"state must be the FrozenState of this transformation; got {type(state).__name__}. It "
            "is tx.init(params), into which Orbax restores it."
        )
    if sorted(state.by_array) != sorted(paths):
        raise ValueError(
            f"state is of the arrays {', '.join(state.by_array)}, but the updates are "
            f"{', '.join(paths)}: it was made for other parameters. Make a new one with "
            "tx.init(params)."
        )


def _alone(n: int, layers: Layers, leaves: Sequence[Any]) -> Any:
    """One array in its place in the tree, so that masks and labels by path still work."""
    own = leaves[n][0] if layers.stacked[n] else leaves[n]
    array = layers.array_of[n]
    only = [own if i == array else optax.MaskedNode() for i in range(len(layers.pieces))]
    return jax.tree.unflatten(layers.treedef, only)
