"""The errors that a command line tells apart, and how one leaves the rest of several tasks."""

import contextlib
import sys
from collections.abc import Iterator
from signal import Signals

LOST = (
    "another process of this run has ended or is not heard of any more; the last checkpoint is "
    "whole: start all of them again with --resume, or one alone"
)
STATUS = 3
"""Of a process that ends for this."""


class LostError(OSError):
    """Another process of the run is gone."""


class IncompleteError(RuntimeError):
    """Some of several runs failed; the others are there."""


@contextlib.contextmanager
def noted(name: str, failures: dict[str, str]) -> Iterator[None]:
    """Notes what goes wrong with a task of this name, once said, so that others can follow.

    Raises:
        LostError: As it came; no other can follow.
    """
    try:
        yield
    except LostError:
        raise
    except (ArithmeticError, ValueError, OSError, RuntimeError) as error:
        failures[name] = " ".join(str(error).split())
        print(f"{name} failed: {failures[name]}", file=sys.stderr, flush=True)


class Stopped(Exception):  # noqa: N818 (not an error)
    """A run was asked to stop, and did between two steps.

    Attributes:
        signal: What asked.
    """

    def __init__(self, message: str, number: Signals):
        super().__init__(message)
        self.signal = number
