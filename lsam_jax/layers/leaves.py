"""The leaves of a parameter pytree, each of one layer or with a row for each of several."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arrays import symbolic
from lsam_jax.arrays.vectors import Place, by_group, in_any_order, sum_of_squares
from lsam_jax.devices import shardings
from lsam_jax.layers.stacked import in_pieces, joined


class Layers(NamedTuple):
    """The layers of one parameter pytree; static.

    A leaf is an array of the parameters or, where they are stacked, a piece of one, of some slices
    along its first axis, its rows. Its rows are all of one layer, or each is of one of its own, and
    then every leaf of one of these is of all of them, in the same order.

    Attributes:
      names: the L names.
      of_leaf: for each leaf, the index of its layer, or -1; a tuple if each row has one.
      paths: for each leaf, its path, as in "block0/Conv_0/kernel": one for each row, or one.
      treedef: the structure of the parameters.
      pieces: for each array of the parameters, the numbers of rows of its leaves; () if it is not
        stacked.
      along: for each, the axes of a mesh that its first dimension lies along, if its type says so
        and it is stacked.
    """

    names: tuple[str, ...]
    of_leaf: tuple[Place, ...]
    paths: tuple[tuple[str, ...], ...]
    treedef: Any
    pieces: tuple[tuple[int, ...], ...]
    along: tuple[Any, ...]

    def tree(self, leaves: Sequence[Any]) -> Any:
        """The tree of the parameters' structure with these leaves."""
        return jax.tree.unflatten(self.treedef, self.arrays(leaves))

    def leaves(self, tree: Any) -> list[Any]:
        """The leaves of such a tree."""
        return self.leaves_of(self.treedef.flatten_up_to(tree))

    def arrays(self, leaves: Sequence[Any]) -> list[Any]:
        """The arrays of such a tree, of its leaves."""
        rest = iter(leaves)
        return [
            joined([next(rest) for _ in lengths], lengths, axes) if lengths else next(rest)
            for lengths, axes in zip(self.pieces, self.along)
        ]

    def leaves_of(self, arrays: Sequence[Any]) -> list[Any]:
        """The leaves of such a tree, of its arrays."""
        return [x for a, lengths in zip(arrays, self.pieces) for x in in_pieces(a, lengths)]

    @property
    def inside(self) -> list[int]:
        """The places of the leaves that are of layers."""
        return [n for n, i in enumerate(self.of_leaf) if i != -1]

    @property
    def array_of(self) -> list[int]:
        """For each leaf, which array it is of."""
        return [n for n, lengths in enumerate(self.pieces) for _ in lengths or (0,)]

    @property
    def stacked(self) -> list[bool]:
        """For each leaf, whether it has rows."""
        return [bool(self.pieces[n]) for n in self.array_of]

    def apart(self) -> "Layers":
        """The same with each row a leaf."""
        return self._cut(lambda i: object())

    def cut(self, chosen: np.ndarray) -> "Layers":
        """The same with leaves whose layers are all among the chosen, bool[L], or none is."""
        return self._cut(lambda i: None if i < 0 else bool(chosen[i]))

    def _cut(self, kind: Callable[[int], Any]) -> "Layers":
        """The same with leaves as long as may be, but each of layers of one kind."""
        rows: list[list[tuple[int, str]]] = [[] for _ in self.pieces]
        for n, i, paths in zip(self.array_of, self.of_leaf, self.paths):
            rows[n] += zip((i,) * len(paths) if isinstance(i, int) else i, paths)
        runs = [[list(run) for _, run in groupby(of, lambda row: kind(row[0]))] for of in rows]
        leaves = [(_place([i for i, _ in run]), [p for _, p in run]) for of in runs for run in of]
        if not _in_step([place for place, _ in leaves]):
            return self.apart()
        return self._replace(
            of_leaf=tuple(place for place, _ in leaves),
            paths=tuple(tuple(paths) for _, paths in leaves),
            pieces=tuple(tuple(map(len, of)) if p else () for of, p in zip(runs, self.pieces)),
        )

    def draw(
        self, n: int, x: Any, draw: Callable[..., jax.Array], key: jax.Array, *args: Any
    ) -> jax.Array:
        """`draw(key, shape, *args)` for a leaf like `x`, the same however arrays are cut."""
        first = sum(map(len, self.paths[:n]))
        if not self.stacked[n]:
            return shardings.draw_like(x, draw, jax.random.fold_in(key, first), *args)
        numbers = first + jnp.arange(len(self.paths[n]))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return shardings.lay_like(jax.vmap(lambda key: draw(key, x.shape[1:], *args))(keys), x)

    def norms(self, leaves: Sequence[jax.Array | None]) -> jax.Array:
        """The Euclidean norm of each layer, f32[L], accumulated in at least float32.

        None stands for zeros.
        """
        there = [n for n in self.inside if leaves[n] is not None]
        one = [n for n in there if isinstance(self.of_leaf[n], int)]
        some = [leaves[n] for n in one]
        squares, order = in_any_order(some, some)
        many = {n: x for n in there if n not in one and (x := leaves[n]) is not None}
        by_row = [shardings.whole(sum_of_squares(x, 1)) for x in many.values()]
        layers = [self.of_leaf[n] for n in [*(one[n] for n in order), *many]]
        groups: list[list[int]] = [[] for _ in self.names]
        for place, i in enumerate(i for of in layers for i in np.ravel(of)):
            groups[i].append(place)
        return jnp.sqrt(by_group(jnp.concatenate([squares, *by_row]), groups)).astype(jnp.float32)

    def sizes(self, leaves: Sequence[jax.Array]) -> np.ndarray:
        """The number of parameters of each layer, i64[L]."""
        sizes = np.zeros(len(self.names), np.int64)
        for n in self.inside:
            i, shape = self.of_leaf[n], np.shape(leaves[n])
            row = shape if isinstance(i, int) else shape[1:]
            sizes[np.ravel(i)] += math.prod(map(symbolic.count, row))
        return sizes


def _place(rows: Sequence[int]) -> Place:
    return rows[0] if len(set(rows)) == 1 else tuple(rows)


def _in_step(places: Sequence[Place]) -> bool:
    """Whether leaves that share a layer are of the same layers, row by row."""
    first: dict[int, Place] = {}
    same = all(first.setdefault(i, p) == p for p in places for i in np.ravel(p).tolist() if i >= 0)
    return same and all(len(set(p)) == len(p) for p in places if isinstance(p, tuple))
