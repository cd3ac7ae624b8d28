"""What a stored number was measured on."""

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def packages() -> dict[str, str | None]:
    """The versions of `PACKAGES`, None for what is not installed."""
    return {name: version(name) for name in PACKAGES}


def describe() -> dict[str, Any]:
    """Versions, hardware and flags, fit to be published: no names of machines, users or paths.

    Returns:
        A flat dictionary that JSON can hold.
    """
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **packages(),
        "system": platform.system(),
        "machine": platform.machine(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "cpu_count": _usable_cpus(),
        "cpu_model": _cpu_model(),
        "xla_flags": without_paths(os.environ.get("XLA_FLAGS", "")),
    }


def without_paths(flags: str) -> str:
    """XLA flags with every value that looks like a path left out.

    Example:
        >>> without_paths("--xla_dump_to=some/folder --xla_cpu_enable_fast_math=false")
        '--xla_dump_to=... --xla_cpu_enable_fast_math=false'
    """
    return re.sub(r"=\S*[/\\]\S*", "=...", flags)


def version(package: str) -> str | None:
    """Of an installed package; None of another."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usable_cpus() -> int | None:
    # A container may be given fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown"
