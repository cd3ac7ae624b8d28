"""Text that every Python brings along: prose about the language, and the source of its modules.

Nothing is downloaded. The bytes depend on the version of Python and on nothing else; `Text.record`
says which they were.
"""

import hashlib
import importlib.util
import platform
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pydoc_data import topics
from typing import Any, NamedTuple

import numpy as np

TRAINING = (
    *("argparse", "ast", "calendar", "configparser", "contextlib", "dataclasses", "difflib"),
    *("doctest", "functools", "heapq", "inspect", "optparse", "pickle", "shutil", "statistics"),
    *("subprocess", "tarfile", "threading", "traceback", "typing"),
)
"""Modules to train on."""

VALIDATION = ("cmd", "csv", "filecmp", "fractions", "pprint", "queue", "textwrap")
"""Modules that are held out."""


class Text(NamedTuple):
    """Bytes to train on.

    Attributes:
        source: Where they come from, in words.
        tokens: u8[N], the UTF-8 encoding.
    """

    source: str
    tokens: np.ndarray

    def record(self) -> dict[str, Any]:
        """What identifies the text, as JSON can hold it."""
        return {
            "source": self.source,
            "bytes": len(self.tokens),
            "sha256": hashlib.sha256(self.tokens.tobytes()).hexdigest(),
            "python": platform.python_version(),
        }


def prose() -> Text:
    """The language reference as the interactive help shows it, by topic."""
    pages = [topics.topics[name] for name in sorted(topics.topics)]
    return _text("topics of the interactive help (pydoc_data.topics)", pages)


def code(modules: Sequence[str]) -> Text:
    """The source of modules of the standard library, which are not imported.

    Args:
        modules: Names, of modules outside of packages or of packages.

    Raises:
        OSError: When this Python came without the source of one.
    """
    return _text(f"source of {', '.join(modules)}", [_source(name) for name in modules])


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    source = _get_source(spec) if spec is not None else None
    if source is None:
        raise OSError(
            f"the source of the module {module!r} is not there; take a Python that ships its "
            "standard library as source"
        )
    return source


def _get_source(spec: ModuleSpec) -> str | None:
    get_source = getattr(spec.loader, "get_source", None)
    source: str | None = None if get_source is None else get_source(spec.name)
    return source


def _text(source: str, parts: Sequence[str]) -> Text:
    return Text(source, np.frombuffer("\n".join(parts).encode(), np.uint8))


def drawn(tokens: np.ndarray, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Windows at random places.

    Args:
        tokens: u8[N], with N at least `length`.
        count: How many.
        length: Of each.
        rng: Decides where.

    Returns:
        i32[count, length].
    """
    return _windows(tokens, rng.integers(len(tokens) - length + 1, size=count), length)


def spread(tokens: np.ndarray, count: int, length: int) -> np.ndarray:
    """The same at even distances, from the first to the last byte."""
    return _windows(tokens, np.linspace(0, len(tokens) - length, count).astype(int), length)


def _windows(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    return tokens[starts[:, None] + np.arange(length)].astype(np.int32)
