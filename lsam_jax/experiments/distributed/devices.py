"""On which devices a run goes, and what that asks of its batches."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import lsam_jax as lsam


class Layout(NamedTuple):
    """Where a run's arrays lie.

    Attributes:
        devices: How many, in all processes.
        shard: Index of this process among those that share a batch, and their number.
        compile: Compiles ``step(state, frozen, batch)``, which is given this process's rows and
            may overwrite the state.
        everywhere: Puts a pytree, the same in all processes, on every device.
        rows: Lays a whole batch, which all processes have, over the devices, if it divides.
    """

    devices: int
    shard: tuple[int, int]
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    everywhere: Callable[[Any], Any]
    rows: Callable[[Any], Any]


def _as_it_is(tree: Any) -> Any:
    return tree


ONE_DEVICE = Layout(1, (0, 1), partial(jax.jit, donate_argnums=0), _as_it_is, _as_it_is)
"""The default device, of a process alone."""


def _many_devices(devices: int | Sequence[jax.Device]) -> Layout:
    # It checks the devices, and places arrays; the step is not known yet.
    placing = lsam.data_parallel(_as_it_is, devices=devices)
    mesh = placing.mesh
    over = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))

    def place(x: Any) -> Any:
        x = np.asarray(x)
        if len(x) % mesh.size:
            return placing.replicate(x)
        return jax.make_array_from_callback(x.shape, over, lambda where: x[where])

    return Layout(
        devices=mesh.size,
        shard=(jax.process_index(), jax.process_count()),
        compile=lambda step: lsam.data_parallel(step, devices=devices, donate_argnums=0),
        everywhere=placing.replicate,
        rows=partial(jax.tree.map, place),
    )


def layout(devices: int | None) -> Layout:
    """Where a run goes.

    Args:
        devices: How many, over all processes; None for one, or all that there are if there are
            several processes.

    Raises:
        ValueError: When there are not so many, or not as many in every process.
    """
    processes = jax.process_count()
    if devices is None:
        return ONE_DEVICE if processes == 1 else _many_devices(jax.devices())
    if processes == 1:
        return ONE_DEVICE if devices == 1 else _many_devices(devices)
    share, rest = divmod(devices, processes)
    of = [[d for d in jax.devices() if d.process_index == p] for p in range(processes)]
    if rest or not 0 < share <= min(map(len, of)):
        raise ValueError(
            f"devices={devices} must be a multiple of the {processes} processes, which have "
            f"{', '.join(str(len(own)) for own in of)} devices"
        )
    return _many_devices([device for own in of for device in own[:share]])


def emulate(devices: int, processes: int) -> None:
    """Makes a machine without an accelerator have this process's share of so many devices.

    It must come before JAX's first use; where that is past, what there is stays.
    """
    share = max(1, devices // processes)
    if jax.config.jax_num_cpu_devices < share:  # type: ignore[attr-defined]  # declared at run time
        # Where it is too late there may be enough of them; if not, that is said later.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", share)


def say_if_emulated(devices: int) -> None:
    """One line, in the first process, if it is a CPU that plays several devices."""
    if devices > 1 and jax.default_backend() == "cpu" and jax.process_index() == 0:
        print(
            f"note: {devices} devices are emulated on the CPU; they gain no time", file=sys.stderr
        )
