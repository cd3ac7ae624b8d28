"""Which mesh a data-parallel step runs on, and how arguments are laid over it."""

import collections
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
"""The name of the one axis of a mesh that is made here."""

Devices = int | Sequence[jax.Device] | Mesh | None


class Ground(NamedTuple):
    """A mesh, and the two ways to lie on it.

    Attributes:
      mesh: the devices.
      rows: along its axes for the batch, by the first dimension.
      same: on every device.
      parts: into how many the rows of this process are dealt out.
    """

    mesh: Mesh
    rows: NamedSharding
    same: NamedSharding
    parts: int

    def holds(self, x: Any) -> bool:
        """Whether an array lies on all of the devices, and can be used as it lies.

        Raises:
          ValueError: if it is spread over another mesh, and axes are explicit.
        """
        if not isinstance(x, jax.Array):
            return False
        place = x.sharding
        if place is self.same or place is self.rows:
            return True
        if place.device_set != self.same.device_set:
            return False
        if AxisType.Explicit not in self.mesh.axis_types or not isinstance(place, NamedSharding):
            return True
        if place.mesh == self.mesh:
            return True
        if place.is_fully_replicated or place.mesh.axis_names == (AXIS,):
            return False  # and so it is laid anew
        raise ValueError(
            f"An array of shape {x.shape} is spread over {place.mesh}, and other arguments lie on "
            f"{self.mesh}, whose axes are explicit: put all of them on one mesh by jax.device_put."
        )


def ground(mesh: Mesh, batch_axes: str | Sequence[str] | None) -> Ground:
    """How to lie on a mesh.

    Raises:
      ValueError: for axes that it does not have.
    """
    axes = mesh.axis_names if batch_axes is None else batch_axes
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    for name in axes:
        if name not in mesh.axis_names:
            raise ValueError(
                f"batch_axes={batch_axes!r} must be among the axes of the mesh, {mesh.axis_names}"
            )
    parts = math.prod(mesh.shape[name] for name in axes)
    processes = max(1, mesh.size // len(mesh.local_devices))
    return Ground(
        mesh,
        NamedSharding(mesh, PartitionSpec(axes)),
        NamedSharding(mesh, PartitionSpec()),
        math.ceil(parts / processes),
    )


def explicit_mesh(args: Any, mesh: Mesh, devices: Devices) -> Mesh | None:
    """The mesh with explicit axes that arguments bring, if there is one.

    Args:
      args: the arguments.
      mesh: the one for arguments that bring none.
      devices: what the user said.

    Raises:
      ValueError: if there are several, or it is not what the user said.
    """
    places = [x.sharding for x in jax.tree.leaves(args) if isinstance(x, jax.Array)]
    theirs = dict.fromkeys(place.mesh for place in places if isinstance(place, NamedSharding))
    found = [m for m in theirs if isinstance(m, Mesh) and AxisType.Explicit in m.axis_types]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(
            f"arguments lie on several meshes with explicit axes, {found}: put all of them on "
            "one by jax.device_put"
        )
    same_devices = {*found[0].devices.flat} == {*mesh.devices.flat}
    is_other = found[0] != mesh if isinstance(devices, Mesh) else not same_devices
    if devices is not None and is_other:
        raise ValueError(
            f"arguments lie on {found[0]}, whose axes are explicit, and devices={devices} are "
            "others: pass that mesh as devices, or put the arguments elsewhere by jax.device_put"
        )
    return found[0]


def of_devices(devices: Devices) -> Mesh:
    """The mesh of the devices that were asked for."""
    return devices if isinstance(devices, Mesh) else Mesh(np.array(_chosen(devices)), (AXIS,))


def _no_devices(devices: Any) -> TypeError:
    return TypeError(
        f"devices={devices!r} must be a number of devices, a sequence of them such as "
        'jax.devices("cpu"), a mesh, or None for all there are'
    )


def _chosen(devices: Any) -> list[jax.Device]:
    """The devices that were asked for, which must be of all processes in equal number."""
    there = jax.devices()
    if devices is None:
        chosen = there
    elif isinstance(devices, Iterable):
        chosen = list(devices)
        if not all(hasattr(device, "process_index") for device in chosen):
            raise _no_devices(devices)
    else:
        try:
            count = operator.index(devices)
        except TypeError:
            raise _no_devices(devices) from None
        if count > len(there):
            raise ValueError(
                f"devices={count} is more than the {len(there)} of jax.devices(); on a CPU, "
                f'jax.config.update("jax_num_cpu_devices", {count}) before they are first used '
                "emulates them"
            )
        if count < 1:
            raise ValueError(f"devices={count} must be at least 1, or None for all there are")
        chosen = there[:count]
    if not chosen:
        raise ValueError("devices=[] must have at least one device, or be None for all there are")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"devices={chosen} must name each device once")
    of = collections.Counter(device.process_index for device in chosen)
    if len({of[process] for process in range(jax.process_count())}) > 1:
        shares = ", ".join(f"{of[p]} of process {p}" for p in range(jax.process_count()))
        raise ValueError(
            f"devices={devices} are {shares}; every process needs the same number of them: give "
            "None for all, or a sequence of devices"
        )
    return chosen
