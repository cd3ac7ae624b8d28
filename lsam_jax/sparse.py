"""A mask over single weights: which of them a perturbation moves (Sparse SAM)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays.vectors import ratio, square_of
from lsam_jax.components.context import Moving, Now
from lsam_jax.components.perturbation import Perturbation, plain
from lsam_jax.devices.shardings import draw_like, lay_like, whole
from lsam_jax.layers.partition import Layers

Arrays = Sequence[Any]


class Mask(NamedTuple):
    """The memory of Sparse SAM.

    Attributes:
      moves: a tree like the parameters: for each weight of a layer, whether it is perturbed.
    """

    moves: Any


def masked(sparsity: float, seed: int) -> Perturbation:
    """`w + rho m g / ||g||`, m a mask with the share `1 - sparsity` of ones; at first random."""

    def init(layers: Layers, leaves: Sequence[Any]) -> Mask:
        key = jax.random.key(seed)
        keys = [jax.random.fold_in(key, n) for n in range(len(leaves))]
        scores = [draw_like(x, jax.random.uniform, k) for k, x in zip(keys, leaves)]
        return most(layers, scores, sparsity)

    def move(g: Arrays, w: Arrays, at: Moving, now: Now, memory: Mask) -> list[Any]:
        moves = now.layers.leaves(memory.moves)
        scale = ratio(now.rho, square_of(g))
        kept = [jnp.where(moves[n], d, jnp.zeros_like(d)) for n, d in zip(at.leaf, g)]
        return plain.move(kept, w, at, now._replace(rho=scale), memory)

    return Perturbation(move, init, refresh=lambda layers, scores: most(layers, scores, sparsity))


def drop_and_grow(
    sparsity: float, every: Any, drop: Callable[[jax.Array], Any], seed: int
) -> Perturbation:
    """`masked`, whose mask changes: of its ones the share `drop(count)` goes, as many come anew.

    Those of smallest gradient go; those that come are drawn from the zeros at random.
    """
    base = masked(sparsity, seed)

    def changed(memory: Mask, g: Arrays, at: Moving, now: Now) -> Mask:
        moves = now.layers.leaves(memory.moves)
        flat = _joined([moves[n] for n in at.leaf])
        size = _joined([jnp.abs(d) for d in g])
        key = jax.random.fold_in(jax.random.key(seed), now.count)
        luck = jax.random.uniform(key, flat.shape)
        count = jnp.round(drop(now.count) * flat.sum()).astype(jnp.int32)
        count = jnp.minimum(count, (~flat).sum())
        gone = flat & (_rank(jnp.where(flat, size, jnp.inf)) < count)
        come = ~flat & (_rank(jnp.where(flat, jnp.inf, luck)) < count)
        new = _parts((flat & ~gone) | come, [moves[n] for n in at.leaf])
        for n, part in zip(at.leaf, new):
            moves[n] = part
        return Mask(now.layers.tree(moves))

    def update(memory: Mask, g: Arrays, at: Moving, now: Now) -> Mask:
        due = (now.count + 1) % arguments.resolve(every, now.count) == 0
        return jax.lax.cond(due, lambda: changed(memory, g, at, now), lambda: memory)

    return base._replace(update=update, refresh=None)


def most(layers: Layers, scores: Sequence[jax.Array], sparsity: float) -> Mask:
    """The mask of the share `1 - sparsity` of all weights in layers that has the largest scores."""
    inside = [n for n, i in enumerate(layers.of_leaf) if i >= 0]
    of_layers = [jnp.asarray(scores[n]) for n in inside]
    flat = _joined(of_layers)
    chosen = _rank(-flat) < round((1 - sparsity) * flat.size)
    moves: list[Any] = [()] * len(scores)
    for n, part in zip(inside, _parts(chosen, of_layers)):
        moves[n] = part
    return Mask(layers.tree(moves))


def _joined(arrays: Sequence[jax.Array]) -> jax.Array:
    """All entries in one vector, which each device has as a whole: ranks are over all of them."""
    return jnp.concatenate([whole(x).ravel() for x in arrays])


def _parts(flat: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """The inverse of `_joined`, the arrays lying like these."""
    parts, place = [], 0
    for x in like:
        parts.append(lay_like(flat[place : place + x.size].reshape(x.shape), x))
        place += x.size
    return parts


def _rank(x: jax.Array) -> jax.Array:
    """The place of each entry in ascending order; of equal ones the earlier goes first."""
    places = jnp.arange(x.size, dtype=jnp.int32)
    return jnp.zeros_like(places).at[jnp.argsort(x, stable=True)].set(places)
