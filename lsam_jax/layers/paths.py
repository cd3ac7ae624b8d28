"""The paths of arrays, by which users name arrays and layers."""

from collections.abc import Sequence
from typing import Any

import jax

Path = tuple[Any, ...]
BOXED = jax.tree_util.GetAttrKey("value")
"""The end of the path of what is in a box (an nnx.Variable, a Linen Partitioned)."""


def names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Each path as text, as in "block0/Conv_0/kernel".

    Boxes show in some trees and not in others: the name must be the same in `init` and in
    `update`, so it leaves them out. A module whose array is called `value` is no box if it holds
    anything else.
    """
    boxes = {jax.tree_util.keystr(path[:-1]) for path in paths if _may_be_boxed(path)}
    inside: dict[str, set[str]] = {box: set() for box in boxes}
    for path in paths if boxes else ():
        for depth in range(len(path)):
            if (parent := jax.tree_util.keystr(path[:depth])) in inside:
                inside[parent].add(jax.tree_util.keystr(path[depth : depth + 1]))

    def name(path: Path) -> str:
        if _may_be_boxed(path) and len(inside[jax.tree_util.keystr(path[:-1])]) == 1:
            path = path[:-1]
        return jax.tree_util.keystr(path, simple=True, separator="/")

    return tuple(map(name, paths))


class Owners:
    """What in the tree each layer is named after, so that no two share a name by accident.

    Args:
      by_path: whether names are made of paths alone, so that none is common on purpose.
    """

    def __init__(self, by_path: bool) -> None:
        self._by_path = by_path
        self._first: dict[str, tuple[str, str, str]] = {}

    def add(self, name: str, kind: str, path: Path, place: str = "") -> None:
        """Notes an array of a layer.

        Args:
          name: of the layer.
          kind: what it is named after: "array" (the array itself), "slice" or "module".
          path: of the array.
          place: which slice of it is meant.

        Raises:
          ValueError: if the name is that of something else.
        """
        if kind != "array" and not self._by_path:
            return
        where = f"params{jax.tree_util.keystr(path)}{place}"
        if kind == "array":
            node = where
        else:
            node = _node(path, name.rpartition("/")[0] if kind == "slice" else name)
        first = self._first.setdefault(name, (kind, node, where))
        # In a flat tree, {"module/kernel": ...}, a module is no node of the tree.
        if first[0] != kind or (node and first[1] and node != first[1]):
            raise ValueError(
                f"{first[2]} and {where} would both be the layer {name!r}, since paths are written "
                "with slashes between keys. Rename a key of one of them; or, if they are to be one "
                "layer, give it another name by layers=[(regex, name), ...]."
            )


def _node(path: Path, name: str) -> str:
    """The node of this name that the path goes through; "" if there is none."""
    for depth in range(len(path)):
        if jax.tree_util.keystr(path[:depth], simple=True, separator="/") == name:
            return jax.tree_util.keystr(path[:depth])
    return ""


def _may_be_boxed(path: Path) -> bool:
    return len(path) > 1 and path[-1] == BOXED
