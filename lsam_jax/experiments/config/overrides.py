"""Reads ``name=value`` as the command line gives it, by the types of `Config`.

A name that is not a field of `Config` is an option of the method, whose value is read by its looks;
but a `selection` is a name ("none" is one), or the names of layers with commas between them.
"""

import types
import typing
from collections.abc import Sequence
from typing import Any

from lsam_jax.experiments.config.config import Config

TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


FIELDS = {name: hint for name, hint in typing.get_type_hints(Config).items() if name != "options"}


def parse(assignments: Sequence[str]) -> dict[str, Any]:
    """Values for fields of `Config`, and for options of a method.

    Args:
        assignments: Texts such as ``"rho=0.2"``, ``"normalize=true"``, ``"width=none"`` or
            ``"decay_at=0.5,0.75"``; the last one of a name counts.

    Raises:
        ValueError: When a text is not an assignment, or not of its field's type.

    Example:
        >>> parse(["rho=0.2", "decay_at=0.5,0.75", "width=none"])
        {'rho': 0.2, 'decay_at': (0.5, 0.75), 'width': None}
    """
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"--set {assignment} must read name=value, for example rho=0.2")
        if name in ("method", "seed"):
            raise ValueError(
                f"--set {assignment}: {name} is not a setting; commands that take it have an "
                "option for it, see --help"
            )
        if name not in FIELDS:
            values[name] = _selection(text) if name == "selection" else _guess(text)
            continue
        try:
            values[name] = _read(FIELDS[name], text)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"--set {assignment}: {text!r} is not {_expected(FIELDS[name])}"
            ) from error
    return values


def text_of(value: Any) -> str:
    """A value as `parse` reads it.

    Example:
        >>> text_of((0.5, 0.75)), text_of(None)
        ('0.5,0.75', 'None')
    """
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _selection(text: str) -> str | tuple[str, ...]:
    """A selection's name, or layers by theirs, which are paths."""
    if "," not in text and "/" not in text:
        return text
    return tuple(_parts(text))


def _parts(text: str) -> list[str]:
    """What stands between commas, without what is empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _guess(text: str) -> Any:
    """A truth, none, a number, or else the text."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    words = {**TRUTHS, "none": None}
    return words.get(text.lower(), text)


def _read(hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType):
        first, *_ = typing.get_args(hint)
        return None if text.lower() == "none" else _read(first, text)
    if typing.get_origin(hint) is tuple:
        return tuple(map(float, _parts(text)))
    if hint is bool:
        return TRUTHS[text.lower()]
    return hint(text)


def _expected(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return f"{_expected(typing.get_args(hint)[0])} or none"
    if typing.get_origin(hint) is tuple:
        return "numbers with commas between them"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "a text")
