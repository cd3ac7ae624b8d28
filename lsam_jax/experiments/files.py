"""Where results go: checked before anything is computed, and written as strict JSON."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

PathLike = str | os.PathLike[str]


def writable_directory(directory: PathLike, option: str = "--out") -> Path:
    """The directory, made where it is missing; `option` names it on the command line.

    Returns:
        Its path.

    Raises:
        OSError: When it cannot be made, or a file cannot be written in it.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write into directory {str(path)!r} ({error.strerror}); choose another {option}"
        ) from error
    return path


def writable_file(file: PathLike, option: str = "--out") -> Path:
    """The path of a file that can be written; its directory is made where it is missing.

    Raises:
        OSError: When it is a directory or cannot be written.
    """
    path = Path(file)
    writable_directory(path.parent, option)
    if path.is_dir():
        raise OSError(f"{str(path)!r} is a directory; {option} must name a file")
    return path


def write_json(path: Path, value: Any) -> None:
    """Writes in one move, so that a reader never sees half a file; JSON has null for NaN."""
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    replace(path, f"{text}\n".encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The dictionary that a file holds; None where there is no file.

    Raises:
        ValueError: When it cannot be read, or holds something else; from what says why.
    """
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not a dictionary")
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read ({error}); make it again, or move it away"
        ) from error
    return found


def replace(path: Path, content: bytes) -> None:
    """Writes a file in one move, so that a kill leaves the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def finite(value: Any) -> Any:
    """Nested dictionaries and lists with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None) -> float:
    """A number of a file, where `finite` has left None of one that was not: NaN then."""
    return math.nan if value is None else float(value)


CONFIG, ENVIRONMENT = "config.json", "environment.json"
METRICS, TIMING = "metrics.jsonl", "timing.jsonl"
CHECKPOINTS, LOCK = "checkpoints", ".lock"
SHARPNESS, LANDSCAPES = "sharpness.json", "landscapes.npz"
"""What the directory of a run has, the last two by `lsam-jax diagnose`."""

STUDY, COSTS, DISTANCES = "study.json", "costs.json", "distances.json"
"""What a directory of runs has."""


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one, with dots in its keys."""
    return flatten_dict(tree, sep=".")
