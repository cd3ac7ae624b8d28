"""A mask over single weights: which of them a perturbation moves (Sparse SAM)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.layers import Layers
from lsam_jax.parts import Moving, Now, ratio, square_of
from lsam_jax.perturbation import Perturbation, plain

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
        scores = [
            jax.random.uniform(jax.random.fold_in(key, n), x.shape) for n, x in enumerate(leaves)
        ]
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
        shapes = [moves[n].shape for n in at.leaf]
        flat = jnp.concatenate([moves[n].ravel() for n in at.leaf])
        size = jnp.concatenate([jnp.abs(d).ravel() for d in g])
        key = jax.random.fold_in(jax.random.key(seed), now.count)
        luck = jax.random.uniform(key, flat.shape)
        count = jnp.round(drop(now.count) * flat.sum()).astype(jnp.int32)
        count = jnp.minimum(count, (~flat).sum())
        gone = flat & (_rank(jnp.where(flat, size, jnp.inf)) < count)
        come = ~flat & (_rank(jnp.where(flat, jnp.inf, luck)) < count)
        new, place = (flat & ~gone) | come, 0
        for n, shape in zip(at.leaf, shapes):
            length = moves[n].size
            moves[n] = new[place : place + length].reshape(shape)
            place += length
        return Mask(now.layers.tree(moves))

    def update(memory: Mask, g: Arrays, at: Moving, now: Now) -> Mask:
        due = (now.count + 1) % arguments.resolve(every, now.count) == 0
        return jax.lax.cond(due, lambda: changed(memory, g, at, now), lambda: memory)

    return base._replace(update=update, refresh=None)


def most(layers: Layers, scores: Sequence[jax.Array], sparsity: float) -> Mask:
    """The mask of the share `1 - sparsity` of all weights in layers that has the largest scores."""
    inside = [n for n, i in enumerate(layers.of_leaf) if i >= 0]
    flat = jnp.concatenate([jnp.asarray(scores[n]).ravel() for n in inside])
    chosen = _rank(-flat) < round((1 - sparsity) * flat.size)
    moves: list[Any] = [()] * len(scores)
    place = 0
    for n in inside:
        length = scores[n].size
        moves[n] = chosen[place : place + length].reshape(scores[n].shape)
        place += length
    return Mask(layers.tree(moves))


def _rank(x: jax.Array) -> jax.Array:
    """The place of each entry in ascending order; of equal ones the earlier goes first."""
    places = jnp.arange(x.size, dtype=jnp.int32)
    return jnp.zeros_like(places).at[jnp.argsort(x, stable=True)].set(places)
