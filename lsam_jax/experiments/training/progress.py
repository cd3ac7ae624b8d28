"""How far a run is: a bar in a terminal, a line for each epoch in a log."""

import contextlib
import dataclasses
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.std import EMA

INTERVAL = 0.5  # seconds between two redraws
SMOOTHING = 0.1  # at each redraw: the shown means are over about the last ten
SHOWN = {"train_loss": ".4f", "validation_loss": ".4f", "validation_accuracy": ".2%"}
BAR = "{desc} {percentage:3.0f}%|{bar}| {postfix[0]}"


@dataclasses.dataclass(eq=False)
class Progress:
    """Shows the progress of a run over all its steps.

    Steps count when the device has finished them, not when they were dispatched. Time left is of
    the whole run as it went so far, evaluations included; images per second are of training
    alone, so evaluate inside `paused`. The first compilation counts for neither.

    Args:
        epochs: Of the whole run.
        steps_per_epoch: Optimizer steps.
        batch_size: Images in a step.
        start_step: Steps that a restored run has behind it.
        description: What is run: a line of its own at the start, as the bar's has no room.
        file: Where to: a bar in a terminal, else lines; None for standard error.
        clock: Seconds; replaced in tests.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    start_step: int = 0
    description: str = ""
    file: TextIO | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._finished = self.start_step
        self._epoch = min(self.start_step // self.steps_per_epoch + 1, self.epochs)
        self._file = sys.stderr if self.file is None else self.file
        self._pending: deque[Any] = deque()
        self._began: float | None = None
        self._since: float | None = None  # up to when training time is counted; None while paused
        self._drawn = self.clock()
        self._images, self._seconds = EMA(SMOOTHING), EMA(SMOOTHING)
        self._loss, self._accuracy = EMA(SMOOTHING), EMA(SMOOTHING)
        self._validated: float | None = None
        self._bar: Any = None
        if self.description:
            print(self.description, file=self._file, flush=True)
        if self._file.isatty():
            self._bar = tqdm(
                total=self.epochs * self.steps_per_epoch,
                initial=self.start_step,
                desc=self._describe(),
                file=self._file,
                bar_format=BAR,
                postfix=["compiling"],
                dynamic_ncols=True,
            )

    def step(self, metrics: Any) -> None:
        """Counts a step; never waits for the device.

        Args:
            metrics: Has scalars `loss` and `accuracy`, as the step returned them.
        """
        now = self.clock()
        if self._began is None:
            self._began = now
            self._since = now
        self._pending.append(metrics)
        if now - self._drawn >= INTERVAL:
            self._advance(now)
            self._draw(now)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps what is done inside, evaluation say, out of the images per second."""
        now = self.clock()
        self._advance(now)
        self._draw(now)
        self._since = None
        try:
            yield
        finally:
            self._since = self.clock()

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Shows an epoch that is over, inside or after its `paused`.

        Args:
            record: Has "epoch", "train_loss", "validation_loss" and "validation_accuracy".
        """
        now = self.clock()
        self._advance(now)
        self._pending.clear()
        self._finished = record["epoch"] * self.steps_per_epoch
        self._validated = record["validation_accuracy"]
        if self._bar is None:
            print(self._line(record, now), file=self._file, flush=True)
        self._epoch = min(record["epoch"] + 1, self.epochs)
        self._draw(now)

    def close(self) -> None:
        """Ends the bar's line; also after an error, and more than once."""
        if self._bar is not None:
            self._bar.close()

    def _advance(self, now: float) -> None:
        """Takes in the steps that the device has finished, and reads the last of them."""
        finished, last = 0, None
        while self._pending and self._pending[0].loss.is_ready():
            last = self._pending.popleft()
            finished += 1
        self._finished += finished
        if last is not None:
            self._loss(float(last.loss))
            self._accuracy(float(last.accuracy))
        if self._since is not None:
            self._images(finished * self.batch_size)
            self._seconds(now - self._since)
            self._since = now

    def _draw(self, now: float) -> None:
        self._drawn = now
        if self._bar is not None:
            parts = self._left(now)
            if self._loss.calls:
                parts.append(f"loss {self._loss():.3f}")
            if self._validated is not None:
                parts.append(f"val acc {self._validated:.1%}")
            elif self._accuracy.calls:
                parts.append(f"train acc {self._accuracy():.1%}")
            self._bar.n = self._finished
            self._bar.set_description_str(self._describe(), refresh=False)
            self._bar.postfix[0] = ", ".join(parts + self._images_per_second())
            self._bar.refresh()

    def _describe(self) -> str:
        return f"epoch {self._epoch}/{self.epochs}"

    def _images_per_second(self) -> list[str]:
        return [f"{self._images() / self._seconds():,.0f} images/s"] if self._seconds() else []

    def _left(self, now: float) -> list[str]:
        done = self._finished - self.start_step
        if self._began is None or done <= 0:
            return []
        left = self.epochs * self.steps_per_epoch - self._finished
        return [f"{tqdm.format_interval(left * (now - self._began) / done)} left"]

    def _line(self, record: Mapping[str, Any], now: float) -> str:
        parts = [f"{name.replace('_', ' ')} {record[name]:{form}}" for name, form in SHOWN.items()]
        parts += self._images_per_second() + self._left(now)
        return f"epoch {record['epoch']}/{self.epochs}: {', '.join(parts)}"
