"""Where the time of an epoch goes."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any


class EpochClock:
    """Measures an epoch by ``with clock.training():`` and, inside, ``with clock.waiting():``.

    Only what stands in `waiting` counts as time that the host left to the device; loading data,
    dispatch and compilation are the host's. A host share near 1 says that the device may be
    starved, provided the loop waits at all: it must wait for the last step before `training` ends.
    What an epoch does beside training stands in `evaluation`.

    Args:
        clock: Seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def _measure(self, part: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[part] += self._clock() - start

    training = partialmethod(_measure, "training")
    waiting = partialmethod(_measure, "waiting")
    evaluation = partialmethod(_measure, "evaluation")

    def read(self, epoch: int, images: int) -> dict[str, Any]:
        """The timing of the epoch, after which the next one starts at zero.

        Args:
            epoch: Its number.
            images: How many it trained on while it was measured.

        Returns:
            "epoch", "seconds" (of training), "images_per_second", "host_share" (of these seconds,
            that the host did not wait) and "evaluation_seconds"; shares of no time are None.
        """
        spent, self._seconds = self._seconds, defaultdict(float)
        seconds = spent["training"]
        return {
            "epoch": epoch,
            "seconds": seconds,
            "images_per_second": images / seconds if seconds else None,
            "host_share": 1 - spent["waiting"] / seconds if seconds else None,
            "evaluation_seconds": spent["evaluation"],
        }
