"""Stacked arrays: the weights of layers of one kind, one after another along the first axis.

Models that scan over their blocks (`jax.lax.scan`, `flax.linen.scan`) hold them like this. Each
slice is then an array of a layer like any other, with the path that it would have in a list of
blocks: slice 3 of "blocks/attention/kernel" is "blocks/3/attention/kernel".
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.devices import shardings


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A rule for layers that knows which arrays are stacked; made by `stacked`."""

    pattern: str
    layers: Any


def stacked(pattern: str, layers: Any = "kernel") -> Stacked:
    r"""Says that arrays hold layers stacked along their first axis, as a scan over layers needs.

    To be given as `layers` wherever that is taken. Each slice counts as an array of its own, one
    rank lower, for names, norms, selection and perturbation; and the engine splits the scan in
    front of the first perturbed slice. Parameters, gradients and state keep their stacked shapes.

    Args:
      pattern: a regex. An array in whose path it is found is stacked. The stack is named by the
        path up to the end of the key in which the match ends, and the number of the slice follows
        that name. All arrays of one stack are of the same length.
      layers: how the slices (and all other arrays) are cut into layers, as in `layer_names`; or
        "slice": all arrays of a slice are one layer, a block, and what is not stacked goes by
        module.

    Returns:
      A rule, to be given as `layers`.

    Raises:
      TypeError: if `pattern` is no str.
      ValueError: if `pattern` is no regex; when first used, if it matches nothing, a scalar, or
        arrays of different lengths.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> block = {"attention": {"kernel": jnp.ones((2, 4, 4))}, "bias": jnp.ones((2, 4))}
    >>> params = {"blocks": block, "head": jnp.ones((4, 3))}
    >>> lsam.layer_names(params, lsam.stacked("blocks"))
    ('blocks/0/attention/kernel', 'blocks/1/attention/kernel', 'head')
    >>> lsam.layer_names(params, lsam.stacked("blocks", layers="slice"))
    ('blocks/0', 'blocks/1', 'head')
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a regex of the paths of stacked arrays; got {pattern!r}.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern={pattern!r} is no regex: {error}.") from None
    if isinstance(layers, Stacked):
        raise ValueError(
            "stacked cannot stand inside stacked: only the first axis of an array is one of "
            'layers. To name several stacks, write one pattern: "encoder|decoder".'
        )
    return Stacked(pattern, layers)


class Stack(NamedTuple):
    """Where a stacked array belongs.

    Attributes:
      name: the path of its stack.
      rest: its path below, "" or with a slash in front.
      length: how many slices it has.
    """

    name: str
    rest: str
    length: int

    def slice_name(self, i: int) -> str:
        """The name of a slice of all arrays of the stack."""
        return f"{self.name}/{i}" if self.name else str(i)


def find(rule: Any, paths: Sequence[str], leaves: Sequence[Any]) -> list[Stack | None]:
    """The stack of each array, None for one that is not stacked."""
    if not isinstance(rule, Stacked) or not paths:
        return [None] * len(paths)
    found = [_stack_of(rule.pattern, path, np.shape(leaf)) for path, leaf in zip(paths, leaves)]
    lengths: dict[str, tuple[int, str]] = {}
    for path, stack in zip(paths, found):
        if stack is not None:
            length, first = lengths.setdefault(stack.name, (stack.length, path))
            if length != stack.length:
                raise ValueError(
                    f"pattern={rule.pattern!r} of stacked takes {first!r} ({length} slices) and "
                    f"{path!r} ({stack.length}) for one stack, {stack.name!r}. Choose a pattern "
                    "that matches arrays of stacked layers only."
                )
    if not lengths:
        raise ValueError(
            f"pattern={rule.pattern!r} of stacked matches no array. The paths are: "
            f"{', '.join(paths)}."
        )
    return found


def _stack_of(pattern: str, path: str, shape: tuple[int, ...]) -> Stack | None:
    match = re.search(pattern, path)
    if match is None:
        return None
    if not shape or not shape[0]:
        what = "a scalar" if not shape else "empty"
        raise ValueError(
            f"pattern={pattern!r} of stacked matches {path!r}, which is {what} and so holds no "
            "stack of layers. Choose a pattern that leaves it out."
        )
    # A match that ends with a slash ends in the key before it.
    end = path.find("/", max(match.end() - 1, 0))
    end = len(path) if end < 0 else end
    return Stack(path[:end], path[end:], shape[0])


def in_pieces(x: Any, lengths: Sequence[int]) -> list[Any]:
    """A stacked array in pieces of so many slices; one that is whole, or `()`, as it is."""
    if len(lengths) < 2 or isinstance(x, tuple):  # `()` stands for nothing
        return [x] * max(len(lengths), 1)
    x = shardings.whole_rows(jnp.asarray(x))
    ends = itertools.accumulate(lengths)
    return [jax.lax.slice_in_dim(x, end - length, end) for end, length in zip(ends, lengths)]


def joined(parts: Sequence[Any], lengths: Sequence[int], axes: Any) -> Any:
    """The inverse of `in_pieces`, for an array whose first dimension lies along these axes."""
    arrays = [x for x in parts if not isinstance(x, tuple)]
    if len(parts) == 1 or not arrays:
        return parts[0]
    row = jnp.zeros_like(arrays[0][:1])
    filled = [
        jnp.repeat(row, length, axis=0) if isinstance(x, tuple) else x
        for x, length in zip(parts, lengths)
    ]
    return shardings.rows_along(jax.lax.concatenate(filled, 0), axes)
