"""From a train step for one device to one for many, in one line.

A step under `jax.jit` computes what its arguments' global arrays say, wherever their parts lie. So
the batch is laid over the devices, all else is on each of them, and XLA adds what has to be
communicated: the loss, the gradients, the layers that are selected and the statistics of batch
normalisation are those of the whole batch, and dropout draws the masks that one device would draw.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from lsam_jax.arrays.draws import is_key
from lsam_jax.devices import meshes


def data_parallel(
    step: Callable[..., Any],
    *,
    devices: meshes.Devices = None,
    batch_argnums: int | Sequence[int] = -1,
    batch_axes: str | Sequence[str] | None = None,
    donate_argnums: int | Sequence[int] = (),
) -> "DataParallel":
    """Compiles a train step for several devices, each with its part of the batch.

    Loss and gradients equal those of one device with the whole batch, to rounding, whatever the
    method. Nothing in `step` has to know of devices: it holds no collectives.

    In several processes (`jax.distributed`) every process calls the step with its own rows of the
    batch, and the batch is their concatenation in the order of the processes. All else must be the
    same in every process.

    Args:
        step: A function of positional arguments, as one would give it to `jax.jit`: it must be
            pure, and its mean over the batch that of all rows.
        devices: All of `jax.devices()` for None, the first so many for a number, or these, or those
            of a mesh. With None, arguments on a mesh with explicit axes bring their own.
        batch_argnums: Which arguments are batches; negative ones count from the end. Each array of
            a batch is laid over the devices by its leading axis; scalars and typed random keys
            are on every device. Keep other things without an axis of samples out of it.
        batch_axes: Along which axes of the mesh the rows are laid, if it is one of yours; all for
            None. Name those that no array is split along which meets the batch: for tensor-parallel
            weights along "model" on a mesh ("data", "model") that is "data"; `()` for none.
        donate_argnums: As `jax.jit` takes it.

    Returns:
        A callable with the arguments and results of `step`. Arguments that already lie on all of
        the devices are used as they lie, parameters that are spread over them (FSDP) too. A result
        with the structure, shapes and types of such an argument (new parameters, say) lies as the
        argument did, and all others are on every device; so one call's results are the next one's
        arguments, and one program is compiled.

    Raises:
        TypeError: When `devices` is none of these.
        ValueError: When there are no such devices or axes. A call raises it, before anything is
            computed, when the rows of a batch cannot be dealt out to the devices evenly, or when
            arguments lie on meshes that do not go together.

    >>> import jax, jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> step = lsam.data_parallel(lambda w, x: w - 0.1 * jax.grad(lambda w: jnp.mean(x @ w))(w))
    >>> w = step.replicate(jnp.zeros(3))
    >>> for _ in range(2):
    ...     w = step(w, jnp.ones((4 * step.mesh.size, 3)))
    >>> print(w)
    [-0.2 -0.2 -0.2]
    """
    return DataParallel(step, devices, batch_argnums, batch_axes, donate_argnums)


class DataParallel:
    """A step on several devices; `data_parallel` makes it.

    Attributes:
        mesh: The devices, along an axis "batch", or the mesh that was given as `devices`.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        devices: meshes.Devices,
        batch_argnums: int | Sequence[int],
        batch_axes: str | Sequence[str] | None,
        donate_argnums: int | Sequence[int],
    ):
        self.mesh = meshes.of_devices(devices)
        self._devices = devices
        self._axes = batch_axes
        is_own = not isinstance(devices, jax.sharding.Mesh)
        self._ground = meshes.ground(self.mesh, None if is_own else batch_axes)
        self._batches = _integers(batch_argnums, "batch_argnums")
        self._donated = _integers(donate_argnums, "donate_argnums")
        self._step = jax.jit(step)  # traced once, for its results' shapes and as the program
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """What the step returns for `args`, which are placed first."""
        placed, program = self._prepare(args)
        return program(*placed)

    def __deepcopy__(self, memo: Any) -> "DataParallel":
        return self  # as functions are; devices cannot be copied

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """As `jax.jit(step).lower`, for the program that a call with `args` runs."""
        placed, program = self._prepare(args)
        return program.lower(*placed)  # type: ignore[attr-defined]

    def replicate(self, tree: Any) -> Any:
        """A pytree on every device; in several processes it must be the same in each."""
        return self._replicate(tree, self._ground)

    def shard(self, batch: Any) -> Any:
        """A batch, laid over the devices by its leading axis.

        Args:
            batch: A pytree; in several processes, the rows of this one.

        Raises:
            ValueError: When the rows cannot be dealt out evenly.
        """
        return self._shard(batch, self._ground)

    def _prepare(self, args: tuple[Any, ...]) -> tuple[list[Any], Callable[..., Any]]:
        batches = _within(self._batches, len(args))
        found = meshes.explicit_mesh(args, self.mesh, self._devices)
        on = self._ground if found is None else meshes.ground(found, self._axes)
        placed = [
            self._shard(x, on) if i in batches else self._replicate(x, on)
            for i, x in enumerate(args)
        ]
        leaves, structure = jax.tree.flatten(placed)
        # Places decide those of the results, and so the program; `jit` looks after shapes.
        key = structure, tuple(getattr(x, "sharding", None) for x in leaves)
        if key not in self._programs:
            self._programs[key] = self._program(placed, batches, on)
        return placed, self._programs[key]

    def _program(self, args: list[Any], batches: set[int], on: meshes.Ground) -> Callable[..., Any]:
        out = jax.eval_shape(self._step, *args)
        kept = [x for i, x in enumerate(args) if i not in batches]

        def step(*args: Any) -> Any:
            return self._step(*args)

        return jax.jit(
            step, out_shardings=_places(out, kept, on.same), donate_argnums=self._donated
        )

    def _replicate(self, tree: Any, on: meshes.Ground) -> Any:
        return jax.tree.map(lambda x: _everywhere(x, on), tree)

    def _shard(self, batch: Any, on: meshes.Ground) -> Any:
        for path, x in jax.tree.leaves_with_path(batch):
            _check(path, x, on)
        return jax.tree.map(lambda x: _by_rows(x, on), batch)


def _everywhere(x: Any, on: meshes.Ground) -> Any:
    # jit puts numbers of Python everywhere itself, and keeps their weak types
    if not _is_array(x) or on.holds(x):
        return x
    return _put(x, on.same)


def _by_rows(x: Any, on: meshes.Ground) -> Any:
    if not _has_rows(x):
        return _everywhere(x, on)
    return x if on.holds(x) else _put(x, on.rows)


def _check(path: Any, x: Any, on: meshes.Ground) -> None:
    if not _has_rows(x) or on.holds(x) or x.shape[0] % on.parts == 0:
        return
    where = jax.tree_util.keystr(path)
    own = "" if len(on.mesh.local_devices) == on.mesh.size else " of this process"
    raise ValueError(
        f"batch{where} has {x.shape[0]} rows, which cannot be dealt out evenly to "
        f"{on.parts} devices{own}; drop the rest of {x.shape[0] % on.parts}, or pad the "
        "batch and weigh its rows in the loss by a mask"
    )


def _integers(numbers: int | Sequence[int], name: str) -> tuple[int, ...]:
    several = numbers if isinstance(numbers, Iterable) else (numbers,)
    try:
        return tuple(operator.index(number) for number in several)
    except TypeError as error:
        raise TypeError(f"{name}={numbers!r} must be an integer or a sequence of them") from error


def _within(argnums: tuple[int, ...], count: int) -> set[int]:
    """Positions among `count` arguments."""
    for number in argnums:
        if not -count <= number < count:
            raise ValueError(
                f"batch_argnums={number} is none of the {count} arguments that the step was called "
                "with"
            )
    return {number % count for number in argnums}


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _has_rows(x: Any) -> bool:
    return _is_array(x) and x.ndim > 0 and not is_key(x)


def _put(x: Any, sharding: Sharding) -> jax.Array:
    """An array of this process as its part of a global one."""
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    if is_key(x):
        data = jax.make_array_from_process_local_data(sharding, np.asarray(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))


def _places(out: Any, args: list[Any], default: Sharding) -> Any:
    """Shardings of results: of an argument that has the same structure, shapes and types.

    The largest such parts of `out` are found, from the left; each argument is taken once.
    """
    known = [(_signature(x), x) for x in args]

    def place(tree: Any) -> Any:
        signature = _signature(tree)
        for index, (like, x) in enumerate(known):
            if like == signature:
                del known[index]
                return jax.tree.map(lambda leaf: getattr(leaf, "sharding", default), x)
        children, structure = jax.tree.flatten(tree, is_leaf=lambda part: part is not tree)
        if len(children) == 1 and children[0] is tree:
            return default
        return jax.tree.unflatten(structure, [place(child) for child in children])

    return place(out)


def _signature(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), jax.dtypes.result_type(x)) for x in leaves]
