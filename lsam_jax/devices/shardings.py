"""Explicit sharding: arrays whose type says over which axes of a mesh they lie.

On a mesh with axes of type `jax.sharding.AxisType.Explicit` JAX decides while it traces where every
array lies, and refuses to join what lies differently: the branches of a conditional, the cases of a
`where`. So whatever is made here for an array of the user's (zeros, draws, masks) is made with its
sharding. Everywhere else (one device, axes that XLA lays out by itself, `pmap`, `shard_map` alone)
types say nothing, and the functions below do nothing.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard


def explicit(x: Any) -> NamedSharding | None:
    """The sharding that the type of `x` (an array, or a type) says; None if it says nothing."""
    is_type = isinstance(x, jax.core.AbstractValue | jax.ShapeDtypeStruct)
    kind = x if is_type else jax.typeof(x)
    found = getattr(kind, "sharding", None)
    if isinstance(found, NamedSharding) and AxisType.Explicit in found.mesh.axis_types:
        return found
    return None


def lay_like(x: Any, like: Any) -> Any:
    """`x`, lying as `like` does, which has its shape."""
    wanted, found = explicit(like), explicit(x)
    if wanted is None or wanted == found:
        return x
    # Outside of jit and of jax.set_mesh a type alone does not name the devices.
    return jax.device_put(x, like.sharding) if _are_there(x, like) else reshard(x, wanted)


def draw_like(x: Any, draw: Callable[..., jax.Array], key: jax.Array, *args: Any) -> jax.Array:
    """`draw(key, x.shape, *args)`, lying as `x` does; the numbers are the same wherever it lies."""
    wanted = explicit(x)
    if wanted is None:
        return draw(key, x.shape, *args)
    if isinstance(x, jax.core.Tracer):
        return draw(key, x.shape, *args, out_sharding=wanted)
    return lay_like(draw(key, x.shape, *args), x)


def take_rows(x: Any, rows: jax.Array) -> Any:
    """Some rows of `x`, a multiple of `row_parts(x)`, dealt out to the devices as those of `x`."""
    return rows_along(jnp.take(whole_rows(x), rows, axis=0), along_first(x))


def lay_by(x: Any, spec: tuple[Any, ...]) -> Any:
    """`x` along other axes of its mesh, one entry for each of its dimensions."""
    found = explicit(x)
    if found is None or tuple(found.spec) == spec:
        return x
    if _are_there(x):
        return jax.device_put(x, NamedSharding(x.sharding.mesh, PartitionSpec(*spec)))
    return reshard(x, NamedSharding(found.mesh, PartitionSpec(*spec)))


def whole(x: Any) -> Any:
    """`x`, as a whole on each device."""
    return lay_by(x, (None,) * jnp.ndim(x))


def along_first(x: Any) -> Any:
    """The axes that the first dimension of `x` lies along; None for none."""
    found = explicit(x)
    return None if found is None else found.spec[0]


def rows_along(x: Any, axes: Any) -> Any:
    """`x`, its first dimension along these axes."""
    found = explicit(x)
    return x if found is None else lay_by(x, (axes, *tuple(found.spec)[1:]))


def whole_rows(x: Any) -> Any:
    """`x`, its first dimension as a whole on each device."""
    return rows_along(x, None)


def beside(tree: Any, params: Any) -> Any:
    """Arrays that nothing has placed, as a whole on each of the devices of the parameters.

    A step gives them back there, and must not be compiled again for that.
    """
    arrays = [x for x in jax.tree.leaves(params) if isinstance(x, jax.Array)]
    places = [x.sharding for x in arrays if not isinstance(x, jax.core.Tracer)]
    meshes = [place.mesh for place in places if isinstance(place, NamedSharding)]
    if not meshes or meshes[0].size == 1:
        return tree
    everywhere = NamedSharding(meshes[0], PartitionSpec())

    def place(x: jax.Array) -> jax.Array:
        if isinstance(x, jax.core.Tracer) or x.committed:
            return x
        value = np.asarray(x)
        return jax.make_array_from_callback(value.shape, everywhere, lambda part: value[part])

    return jax.tree.map(place, tree)


def row_parts(x: Any) -> int:
    """Into how many equal parts the first dimension of `x` is dealt out."""
    found, axes = explicit(x), along_first(x)
    names = axes if isinstance(axes, tuple) else (axes,)
    if found is None or axes is None:
        return 1
    return math.prod(found.mesh.shape[name] for name in names)


def _are_there(*arrays: Any) -> bool:
    return all(isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) for x in arrays)
