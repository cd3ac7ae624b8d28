"""Arrays apart from what stands among them: strings, functions, numbers that stay numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Apart(NamedTuple):
    """A pytree whose arrays can be replaced: by traced ones, or by shapes.

    Attributes:
      arrays: those, by their place among the leaves.
      leaves: all leaves.
      treedef: the structure.
    """

    arrays: dict[int, Any]
    leaves: list[Any]
    treedef: Any

    def tree(self, arrays: dict[int, Any]) -> Any:
        """The pytree with these arrays."""
        leaves = [arrays.get(n, x) for n, x in enumerate(self.leaves)]
        return jax.tree.unflatten(self.treedef, leaves)


def apart(tree: Any, is_array: Callable[[int, Any], bool]) -> Apart:
    """The arrays of a tree apart.

    Args:
      tree: a pytree.
      is_array: from the place of a leaf, and the leaf, to whether it is one.

    >>> import numpy as np
    >>> from lsam_jax.arrays.apart import apart
    >>> found = apart({"x": np.ones(2), "mode": "train"}, lambda n, x: hasattr(x, "dtype"))
    >>> found.tree({n: x.shape for n, x in found.arrays.items()})
    {'mode': 'train', 'x': (2,)}
    """
    leaves, treedef = jax.tree.flatten(tree)
    return Apart({n: x for n, x in enumerate(leaves) if is_array(n, x)}, leaves, treedef)
