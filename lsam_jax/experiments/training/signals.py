"""Stops a loop between two steps when the process is asked to end."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from signal import Signals
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal has come.

    Attributes:
        signal: Which; None before.
    """

    signal: Signals | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[Stop]:
    """Notes the first Ctrl-C or SIGTERM instead of dying of it; a second one ends at once.

    Outside of the main thread, which alone can handle signals, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = Signals(number)
        print(
            f"\n{stop.signal.name}: saving after this step; once more to stop at once",
            file=sys.stderr,
        )

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
