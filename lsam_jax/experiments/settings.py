"""Reads ``name=value`` as the command line gives it, by the types of `Config`."""

import types
import typing
from collections.abc import Sequence
from typing import Any

from lsam_jax.experiments.config import Config

TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse(assignments: Sequence[str]) -> dict[str, Any]:
    """Values for fields of `Config`.

    Args:
        assignments: Texts such as ``"rho=0.2"``, ``"normalize=true"``, ``"width=none"`` or
            ``"decay_at=0.5,0.75"``; the last one of a name counts.

    Raises:
        ValueError: When there is no such field, or the text is not of its type.

    Example:
        >>> parse(["rho=0.2", "decay_at=0.5,0.75", "width=none"])
        {'rho': 0.2, 'decay_at': (0.5, 0.75), 'width': None}
    """
    hints = typing.get_type_hints(Config)
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment} must read name=value, for example rho=0.2")
        if name not in hints:
            raise ValueError(f"--set {assignment}: {name!r} is not one of {', '.join(hints)}")
        try:
            values[name] = _read(hints[name], text)
        except ValueError as error:
            raise ValueError(f"--set {assignment}: {text!r} is not {_expected(hints[name])}") from (
                error
            )
    return values


def _read(hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType):
        first, *_ = typing.get_args(hint)
        return None if text.lower() == "none" else _read(first, text)
    if typing.get_origin(hint) is tuple:
        return tuple(float(part) for part in text.split(",") if part.strip())
    if hint is bool:
        if text.lower() not in TRUTHS:
            raise ValueError(text)
        return TRUTHS[text.lower()]
    return hint(text)


def _expected(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return f"{_expected(typing.get_args(hint)[0])} or none"
    if typing.get_origin(hint) is tuple:
        return "numbers with commas between them"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "a text")
