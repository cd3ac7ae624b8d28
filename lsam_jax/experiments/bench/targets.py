"""What programs are compiled for, with the device or without."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from lsam_jax.experiments import environment

AXIS = "data"


class Target(NamedTuple):
    """A kind of device.

    Attributes:
        packages: Of which one must be installed; what to install stands first.
        topology: Gives the devices.
        stops: Whether a compiler spends minutes behind what it has written after seconds.
    """

    packages: tuple[str, ...]
    topology: Callable[[], Sequence[Any]]
    stops: bool = False


def _tpu() -> Sequence[Any]:
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a run that was stopped leaves a lock behind
    }.items():
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices


def _h100() -> Sequence[Any]:
    described = (Path(__file__).parent / "h100.txtpb").read_text()
    return topologies.get_topology_desc(
        platform="cuda", topology_name="1x1x1", topology="1x1x1", target_config=described
    ).devices


TARGETS = {
    "cpu": Target((), lambda: jax.devices("cpu")),
    "tpu-v5e": Target(("libtpu",), _tpu, stops=True),
    "h100": Target(("jax-cuda12-plugin", "jax-cuda13-plugin"), _h100),
}


def check(name: str) -> None:
    """Raises a ValueError if a target is not known, or its compiler is not installed."""
    if name not in TARGETS:
        raise ValueError(f"target={name!r} is not known; choose from {', '.join(TARGETS)}")
    packages = TARGETS[name].packages
    if packages and not any(map(environment.version, packages)):
        raise ValueError(
            f"target={name} needs the compiler of {packages[0]}: "
            'pip install "lsam-jax[compiled]" for a TPU\'s, '
            f"pip install {TARGETS['h100'].packages[0]} nvidia-cuda-nvcc-cu12 for a GPU's"
        )


def mesh(name: str, devices: int) -> Mesh:
    """Devices of a target along one axis.

    Raises:
        ValueError: When it has fewer.
    """
    known = TARGETS[name].topology()
    if devices > len(known):
        raise ValueError(f"devices={devices} is more than the {len(known)} of target={name}")
    return Mesh(np.array(known[:devices]), (AXIS,))
