"""How a parameter pytree is cut into named layers.

There are L layers, in the order of `jax.tree.leaves`. An array may belong to no layer: it is
then never ranked, perturbed or mixed, and simply descends.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.devices import shardings
from lsam_jax.layers import paths
from lsam_jax.layers.leaves import Layers
from lsam_jax.layers.stacked import Stack, Stacked, find

Params = Any
Rule = tuple[str, str | None]
NORMALISATION = re.compile(
    r"norm(?![a-z])|normali[sz]ation|(^|[/_])(bn|ln|gn)(?![a-z])", re.IGNORECASE
)
"""Finds a normalisation layer in a path."""

LayerRule = str | Callable[[str], str | None] | Sequence[Rule]
LayerSpec = LayerRule | Stacked


def layer_names(params: Params, layers: LayerSpec = "kernel") -> tuple[str, ...]:
    r"""Names the L layers of `params`, in the order of the state's arrays.

    Args:
      params: a pytree of arrays.
      layers: "kernel": every array of rank > 1 is a layer of its own (the paper's choice).
        "array": every array is. "norm": every array of a normalisation layer is, going by the
        names of its modules (`BatchNorm_0`, `layer_norm`, `bn1`, `ln_f`).
        "module": all arrays of one module (one parent in the pytree) are a layer.
        A function from a path such as "block0/Conv_0/kernel" to a layer's name, or to None
        for an array that is in no layer. Or ordered rules `(regex, name)`: the first whose
        regex is found in the path decides; the name may refer to groups (`\1`) or be None.
        Or `stacked(...)`, for a model that scans over its layers.

    Returns:
      L names, in the order of `jax.tree.leaves`.

    Raises:
      ValueError: if `layers` is unknown or puts no array in a layer; if two arrays have one path.
      TypeError: if an array of `params` is not of a real floating type, or one of a layer is of
        less than 16 bits.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, b = jnp.ones((2, 2)), jnp.ones(2)
    >>> params = {"body": {"w": w, "b": b}, "head": {"w": w}}
    >>> lsam.layer_names(params)
    ('body/w', 'head/w')
    >>> lsam.layer_names(params, layers="module")
    ('body', 'head')
    >>> lsam.layer_names(params, layers=[("bias|/b$", None), (r"^(\w+)/", r"\1")])
    ('body', 'head')
    """
    return partition(params, layers).names


def partition(params: Params, layers: LayerSpec) -> Layers:
    """Cuts `params` into layers; see `layer_names`."""
    if params is None:
        raise ValueError("params must be the parameters, got None: call update(..., params).")
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = paths.names([path for path, _ in with_paths])
    leaves = [leaf for _, leaf in with_paths]
    for path, leaf in zip(names, leaves):
        _check_leaf(path, leaf)
    found = find(layers, names, leaves)
    rule = layers.layers if isinstance(layers, Stacked) else layers
    by_slice = isinstance(layers, Stacked) and rule == "slice"
    name_of = _naming("module" if by_slice else rule)
    owners = paths.Owners(by_path=isinstance(rule, str))
    index: dict[str, int] = {}
    of_leaf, leaf_paths = [], []
    for path, (keys, leaf), stack in zip(names, with_paths, found):
        for n, (slice_name, part, rank) in enumerate(_parts(path, np.ndim(leaf), stack)):
            name = slice_name if by_slice and stack else name_of(part, rank)
            if name is not None and not isinstance(name, str):
                raise TypeError(
                    f"layers must give a str or None; got {name!r} for the path {part!r}."
                )
            if name is not None:
                _check_moves(path, leaf)
                kind = "slice" if by_slice and stack else "array" if name == part else "module"
                owners.add(name, kind, keys, f"[{n}]" if stack else "")
            leaf_paths.append((part,))
            of_leaf.append(-1 if name is None else index.setdefault(name, len(index)))
    if not index and not _stands_for_any(params):
        those = ", ".join(name or repr("") for name in names) or "(none: params is empty)"
        raise ValueError(
            f"layers={layers!r} puts no parameter in a layer, so nothing could be perturbed. "
            f"The paths are: {those}."
        )
    rows = tuple((1,) * stack.length if stack else () for stack in found)
    along = tuple(shardings.along_first(x) if stack else None for x, stack in zip(leaves, found))
    every = np.ones(len(index), bool)
    return Layers(tuple(index), tuple(of_leaf), tuple(leaf_paths), treedef, rows, along).cut(every)


def _stands_for_any(params: Params) -> bool:
    """Whether Optax stands for parameters, as its `tree.map_params` does, by a node of its own.

    It asks for the structure of a state, in which every tree like the parameters is that node.
    """
    return type(params).__module__.partition(".")[0] == "optax"


def _parts(path: str, rank: int, stack: Stack | None) -> Iterator[tuple[str | None, str, int]]:
    """For an array, or for each of its slices: the name of the slice, the path and the rank."""
    if stack is None:
        yield None, path, rank
        return
    for i in range(stack.length):
        name = stack.slice_name(i)
        yield name, name + stack.rest, rank - 1


def _naming(layers: LayerRule) -> Callable[[str, int], str | None]:
    if callable(layers):
        return lambda path, rank: layers(path)
    if layers == "kernel":
        return lambda path, rank: path if rank > 1 else None
    if layers == "array":
        return lambda path, rank: path
    if layers == "norm":
        return lambda path, rank: path if NORMALISATION.search(path) else None
    if layers == "module":
        return lambda path, rank: path.rpartition("/")[0] or path
    if isinstance(layers, str) or not np.iterable(layers):
        raise ValueError(
            'layers must be "kernel", "array", "norm", "module", a function of a path, or a list '
            f"of (regex, name) rules; got layers={layers!r}."
        )
    rules = [_compiled(rule) for rule in layers]

    def by_rule(path: str, rank: int) -> str | None:
        for regex, name in rules:
            if match := regex.search(path):
                return None if name is None else match.expand(name)
        return None

    return by_rule


def _compiled(rule: Rule) -> tuple[re.Pattern[str], str | None]:
    try:
        regex, name = rule
        if not (name is None or isinstance(name, str)):
            raise TypeError("the name must be a str or None")
        re.sub(regex, name or "", "")  # fails where the name refers to groups that are not there
        return re.compile(regex), name
    except (TypeError, ValueError, re.error) as error:
        raise ValueError(
            f"layers holds {rule!r}, which is no (regex, name) rule: {error}."
        ) from None


def _check_leaf(path: str, leaf: Any) -> None:
    try:
        dtype = jnp.result_type(leaf)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        found = type(leaf).__name__ if dtype is None else str(dtype)
        raise TypeError(
            f"params must hold real floating arrays only; {path!r} is {found}. Keep what is not "
            "to be differentiated out of params: close over it, or pass it to the loss."
        )


def _check_moves(path: str, leaf: Any) -> None:
    dtype = jnp.result_type(leaf)
    if dtype.itemsize < 2:
        raise TypeError(
            f"params holds {path!r} as {dtype}, in which a perturbation would round away: weights "
            "that are perturbed need 16 bits or more. Keep them in float32 or bfloat16 and cast "
            f"them in the loss, w.astype(jnp.{dtype}); or leave the array out by layers=."
        )
