"""A state that was read from a file without a target: nested dictionaries of its arrays.

Orbax, given nothing to restore into, makes dictionaries of named tuples, and lists of tuples;
Flax's `to_state_dict` makes dictionaries of both. The names are there, so the state can be too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax


def rebuilt(found: Any, like: Any) -> Any:
    """The pytree `like` with the arrays that `found` holds under the same names.

    Raises:
      LookupError: if an array is missing, or one is left over.

    >>> from lsam_jax.transform.restored_state import rebuilt
    >>> from lsam_jax.transform.state import SamState
    >>> found = {"count": 1, "norms": 2, "selected": 3, "perturbations": 4, "sharpness": 5}
    >>> found |= {"memory": {"ascent": ()}, "rho": 6, "rise": 7}
    >>> state = rebuilt(found, SamState(0, 0, 0, 0, 0))
    >>> state.count, state.sharpness, state.rise
    (1, 5, 7)
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    leaves = [_at(found, path) for path, _ in paths]
    left = len(jax.tree.leaves(found)) - len(leaves)
    if left:
        raise LookupError(f"{left} arrays more than expected")
    return jax.tree.unflatten(treedef, leaves)


def _at(node: Any, path: Sequence[Any]) -> Any:
    for step, key in enumerate(path):
        names = [getattr(key, kind) for kind in ("name", "key", "idx") if hasattr(key, kind)]
        inside = _member(node, names[0])
        if inside is None:
            where = jax.tree_util.keystr(tuple(path[: step + 1]), simple=True, separator="/")
            raise LookupError(f"nothing at {where!r}")
        node = inside
    return node


def _member(node: Any, name: Any) -> Any:
    if isinstance(node, Mapping):
        return node.get(name, node.get(str(name)))
    if isinstance(name, str):
        return getattr(node, name, None)
    is_place = isinstance(node, Sequence) and isinstance(name, int) and name < len(node)
    return node[name] if is_place else None
