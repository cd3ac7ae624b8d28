"""Lists of arrays as vectors: inner products in few reductions, norms, steps along them.

An array may hold several layers, one for each row along its first axis. What is said of its layers
is then an array itself, with one entry for each row.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMALL = 4096
"""How many numbers an array may hold to be copied into a row."""

FEW = 3
"""So many arrays of one kind are not worth joining."""

WINDOW = 32
"""Of so many flags, at most, one is taken out by a reduction."""

Place = int | tuple[int, ...]
"""Of an array: one, or one for each of its rows."""


def inner_products(
    a: Sequence[Any], b: Sequence[Any], less: Sequence[Any] | None = None
) -> jax.Array:
    """The inner product of each array of `a` with that of `b`.

    Args:
      a: N arrays.
      b: N arrays of their shapes.
      less: N more, that are subtracted from those of `b`.

    Returns:
      [N], in float32 or the widest type among them.

    >>> import jax.numpy as jnp
    >>> from lsam_jax.arrays.vectors import inner_products
    >>> a, b = [jnp.asarray([1.0, 2.0]), jnp.asarray(3.0)], [jnp.ones(2), jnp.asarray(5.0)]
    >>> inner_products(a, b).tolist(), inner_products(a, b, a).tolist()
    ([3.0, 15.0], [-2.0, 6.0])
    """
    found, order = in_any_order(a, b, less)
    return found if order == sorted(order) else found[np.argsort(order)]


def in_any_order(
    a: Sequence[Any], b: Sequence[Any], less: Sequence[Any] | None = None
) -> tuple[jax.Array, list[int]]:
    """The inner products as they are found, and the place of each among the arrays.

    For their sum. To put them in order takes a gather, which XLA for the CPU compiles slowly.
    """
    factors = [list(a), list(b), *([] if less is None else [list(less)])]
    if not factors[0]:
        return jnp.zeros(0), []
    wide = jnp.promote_types(jnp.result_type(*a, *b), jnp.float32)
    kinds: dict[Any, list[int]] = {}
    for n, arrays in enumerate(zip(*factors)):
        kinds.setdefault(_kind(arrays) or ("alone", n), []).append(n)
    order: list[int] = []
    found: list[jax.Array] = []
    for places in kinds.values():
        rows = [places] if len(places) > FEW else [[n] for n in places]
        for row in rows:
            x, y, *z = (_joined([of[n] for n in row]) for of in factors)
            y = y if not z else y - z[0]
            product = x.astype(wide) * y.astype(wide)
            found.append(product.sum(axis=1) if len(row) > 1 else product.sum()[None])
            order += row
    return jnp.concatenate(found), order


def sum_of_squares(x: jax.Array, first: int = 0) -> jax.Array:
    """The sum of `x**2` over the axes from the first on, in float32 or the wider type of `x`."""
    wide = widened(x)
    return jnp.sum(wide * wide, axis=tuple(range(first, x.ndim)))


def widened(x: jax.Array) -> jax.Array:
    """The array in at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def one_by_one(selected: Any, of: Sequence[Place]) -> list[Any]:
    """The entries of a bool[L] at the places `of`, repeated ones being the same array.

    >>> import jax.numpy as jnp
    >>> from lsam_jax.arrays.vectors import one_by_one
    >>> [bool(x) for x in one_by_one(jnp.asarray([False, True]), [1, 0, 1])]
    [True, False, True]
    >>> one_by_one(jnp.asarray([False, True]), [(1, 0)])[0].tolist()
    [True, False]
    """
    places = np.arange(len(selected))

    def entry(i: Place) -> Any:
        # XLA for the CPU copies a slice, unlike a reduction, into each of its consumers, and
        # compiles what holds one thirty times as slowly; JAX 0.7's does so with a long reduction.
        near = slice(i - i % WINDOW, i - i % WINDOW + WINDOW) if isinstance(i, int) else slice(None)
        return jnp.any(selected[near] & (places[near] == np.expand_dims(i, -1)), axis=-1)

    found = {i: entry(i) for i in dict.fromkeys(of)}
    return [found[i] for i in of]


def by_row(numbers: Any, x: Any) -> Any:
    """One number for an array, or one for each of its rows, shaped to be combined with it.

    >>> import jax.numpy as jnp
    >>> from lsam_jax.arrays.vectors import by_row
    >>> by_row(jnp.asarray([1, 2]), jnp.ones((2, 3, 3))).shape
    (2, 1, 1)
    """
    ones = (1,) * (jnp.ndim(x) - 1)
    return numbers.reshape(*numbers.shape, *ones) if np.ndim(numbers) else numbers


def masked(wanted: Any, x: Any) -> jax.Array:
    """An array, with zeros where it is not wanted: bool[], or one for each row."""
    return jnp.where(by_row(wanted, x), x, jnp.zeros_like(x))


def by_group(numbers: jax.Array, groups: Sequence[Sequence[int]]) -> jax.Array:
    """The sum of the numbers at each group of places; 0 for none.

    >>> import jax.numpy as jnp
    >>> from lsam_jax.arrays.vectors import by_group
    >>> by_group(jnp.asarray([1.0, 2.0, 4.0]), [[0, 2], [], [1]]).tolist()
    [5.0, 0.0, 2.0]
    """
    most = max(1, *(len(group) for group in groups))
    places = np.full((len(groups), most), len(numbers))
    for row, group in zip(places, groups):
        row[: len(group)] = group
    padded = jnp.concatenate([numbers, jnp.zeros(1, numbers.dtype)])
    return padded[places[:, 0]] if most == 1 else padded[places].sum(axis=1)


def _joined(arrays: Sequence[Any]) -> jax.Array:
    """Arrays of one size as rows; one alone as it is."""
    if len(arrays) == 1:
        return jnp.asarray(arrays[0])
    if arrays[0].ndim == 0 or any(x.shape != arrays[0].shape for x in arrays):
        arrays = [x.reshape(-1) for x in arrays]
    return jax.lax.concatenate(arrays, 0).reshape(len(arrays), -1)


def _kind(arrays: Sequence[Any]) -> Any:
    """Equal for those that can be joined; None for what stays by itself."""
    types = [jax.typeof(x) for x in arrays]
    size = types[0].size
    sharded = any(axis is not None for t in types for axis in t.sharding.spec)
    if not isinstance(size, int) or size > SMALL or sharded:
        return None
    return size, *((t.dtype, getattr(t, "vma", None)) for t in types)


def vdot(a: Sequence[Any], b: Sequence[Any], less: Sequence[Any] | None = None) -> jax.Array:
    """The inner product of a list of arrays with another, or with `b - less`.

    In at least float32.
    """
    return total(in_any_order(a, b, less)[0])


def squared_norm(arrays: Sequence[Any], chosen: Sequence[Any] | None = None) -> jax.Array:
    """The squared norm of a list of arrays, of what is `chosen` of them if that is given."""
    if chosen is None or all(c is True for c in chosen):
        return vdot(arrays, arrays)
    some = [jnp.where(c, x, 0) if jnp.ndim(c) else x for x, c in zip(arrays, chosen)]
    squares = inner_products(some, some)
    return total(jnp.where(jnp.stack([jnp.any(jnp.asarray(c)) for c in chosen]), squares, 0))


def total(numbers: jax.Array) -> jax.Array:
    """The sum of an array, behind a barrier."""
    # XLA copies what is cheap into each of its consumers, here every array that the sum scales, so
    # that a program would grow with the square of the arrays.
    return jnp.sum(jax.lax.optimization_barrier(numbers))


def step_along(w: Sequence[Any], d: Sequence[Any], length: Any) -> list[Any]:
    """`w + length d / ||d||`."""
    scale = ratio(length, squared_norm(d))
    return [(x + scale * y).astype(x.dtype) for x, y in zip(w, d)]


def ratio(numerator: Any, square: jax.Array) -> jax.Array:
    """`numerator / sqrt(square)`, and 0 where `square` is 0."""
    # One `where`, and the division last: XLA copies what is cheap into each of its consumers.
    return numerator / jnp.sqrt(jnp.where(square == 0, jnp.inf, square))
