"""The progress of a run: what is shown, when, and that it waits for nothing."""

import contextlib
import io
import os
import re
from typing import NamedTuple

import jax.numpy as jnp
import pytest

from lsam_jax.experiments.training.progress import Progress


class Scalar:
    """Of a device that is done when the test says so."""

    def __init__(self, value, ready):
        self.value, self.is_ready, self.reads = value, ready, 0

    def __float__(self):
        assert self.is_ready(), "waited for the device"
        self.reads += 1
        return self.value


class Metrics(NamedTuple):
    loss: object
    accuracy: object


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def shown(self):
        """What was drawn, one after the other."""
        return [line.strip() for line in re.split(r"[\r\n]+", self.getvalue()) if line.strip()]


@pytest.fixture
def now():
    return [100.0]


def metrics(loss=1.0, accuracy=0.5, ready=lambda: True):
    return Metrics(Scalar(loss, ready), Scalar(accuracy, ready))


def never():
    return False


def progress(now, file, *, epochs=3, steps_per_epoch=10, batch_size=8, **options):
    return contextlib.closing(
        Progress(epochs, steps_per_epoch, batch_size, file=file, clock=lambda: now[0], **options)
    )


def step(bar, now, seconds, **values):
    """Dispatches a step and waits until the device has done it."""
    done = now[0] + seconds
    bar.step(metrics(ready=lambda: now[0] >= done, **values))
    now[0] = done


FOUND = {"train_loss": 1.0, "validation_loss": 2.0, "validation_accuracy": 0.5}


def run_epoch(bar, now, epoch, seconds=1.0, evaluation=50.0, **values):
    """Ten steps and an evaluation."""
    for _ in range(10):
        step(bar, now, seconds)
    with bar.paused():
        now[0] += evaluation
        bar.epoch({"epoch": epoch, **FOUND, **values})


def test_the_bar_counts_what_the_device_has_finished(now):
    terminal = Terminal()
    done = []
    steps = [metrics(ready=lambda i=i: i in done) for i in range(8)]
    with progress(now, terminal) as bar:
        for dispatched in steps:
            bar.step(dispatched)
            now[0] += 1.0
        assert terminal.shown()[-1].startswith("epoch 1/3   0%")
        assert "loss" not in terminal.shown()[-1]
        done += range(6)
        bar.step(metrics(ready=never))
        assert terminal.shown()[-1].startswith("epoch 1/3  20%")  # 6 of 30
    assert [dispatched.loss.reads for dispatched in steps] == [0, 0, 0, 0, 0, 1, 0, 0]


def test_values_are_read_when_the_bar_is_drawn_and_it_is_drawn_twice_a_second(now):
    terminal = Terminal()
    steps = [metrics(accuracy=0.25) for _ in range(21)]
    with progress(now, terminal) as bar:
        before = len(terminal.shown())
        for dispatched in steps:
            bar.step(dispatched)
            now[0] += 0.125
        drawn = len(terminal.shown()) - before
    assert drawn == 5
    assert sum(dispatched.loss.reads for dispatched in steps) == 5


def test_images_per_second_are_of_training_alone(now):
    terminal = Terminal()
    with progress(now, terminal) as bar:
        now[0] += 1000.0  # compilation, before the first step returns
        for epoch in (1, 2):
            run_epoch(bar, now, epoch, seconds=0.5)
        step(bar, now, 0.5)
        assert terminal.shown()[-1].endswith(" 16 images/s")


def test_speed_is_measured_again_after_an_evaluation(now):
    terminal = Terminal()
    with progress(now, terminal, batch_size=8000) as bar:
        run_epoch(bar, now, 1, seconds=0.5)
        run_epoch(bar, now, 2, seconds=50.0)
    speed = re.search(r"([\d,]+) images/s", terminal.shown()[-1])[1]
    fast = 0.9**10  # what is left of the first epoch's weight
    assert int(speed) == round((8000 + 8000 * fast) / (50.0 + 0.5 * fast))


def test_time_left_is_of_the_run_as_it_went_but_for_compilation(now):
    terminal = Terminal()
    with progress(now, terminal) as bar:
        now[0] += 1000.0
        assert terminal.shown()[-1].endswith("| compiling")
        run_epoch(bar, now, 1)
    assert "| 02:00 left, " in terminal.shown()[-1]  # as in the log, below


def test_steps_of_an_epoch_that_is_over_are_not_counted_again(now):
    terminal, done = Terminal(), []
    with progress(now, terminal) as bar:
        for _ in range(10):
            bar.step(metrics(ready=lambda: bool(done)))
        bar.epoch({"epoch": 1, **FOUND})
        done.append(True)
        step(bar, now, 1.0)
        step(bar, now, 1.0)
    assert terminal.shown()[-1].startswith("epoch 2/3  37%")  # 11 of 30


def test_recent_speed_and_loss_count_more(now):
    terminal = Terminal()
    with progress(now, terminal, steps_per_epoch=1000) as bar:
        for _ in range(100):
            step(bar, now, 1.0, loss=9.0)
        for _ in range(100):
            step(bar, now, 0.5, loss=1.0)
        loss, speed = re.search(r"loss ([\d.]+),.* (\d+) images/s", terminal.shown()[-1]).groups()
        assert 1.0 <= float(loss) < 1.01
        assert speed == "16"


def test_the_running_mean_is_a_mean(now):
    terminal = Terminal()
    with progress(now, terminal, steps_per_epoch=1000) as bar:
        for _ in range(50):
            for loss in (1.0, 3.0):
                step(bar, now, 1.0, loss=loss)
        step(bar, now, 1.0)
        # The last one weighs 1, the one before it 0.9, and so on.
        shown = float(re.search(r"loss ([\d.]+)", terminal.shown()[-1])[1])
        assert shown == pytest.approx((3 + 0.9 * 1) / 1.9, abs=1e-3)


def test_the_accuracy_is_labelled(now):
    terminal = Terminal()
    with progress(now, terminal) as bar:
        for _ in range(10):
            step(bar, now, 1.0)
        assert "train acc 50.0%" in terminal.shown()[-1]
        run_epoch(bar, now, 2, validation_accuracy=0.9123)
        assert "val acc 91.2%" in terminal.shown()[-1]
        assert "train acc" not in terminal.shown()[-1]
        step(bar, now, 1.0)
        assert "val acc 91.2%" in terminal.shown()[-1]


def test_the_bar_says_which_epoch_is_under_way(now):
    terminal = Terminal()
    with progress(now, terminal) as bar:
        for epoch in (1, 2, 3):
            for _ in range(10):
                step(bar, now, 1.0)
            with bar.paused():
                assert terminal.shown()[-1].startswith(f"epoch {epoch}/3")
                bar.epoch({"epoch": epoch, **FOUND})
            assert terminal.shown()[-1].startswith(f"epoch {min(epoch + 1, 3)}/3")
    assert "100%" in terminal.shown()[-1]


def test_a_resumed_run_goes_on_where_it_was(now):
    terminal = Terminal()
    with progress(now, terminal, start_step=10) as bar:
        assert terminal.shown()[-1].startswith("epoch 2/3  33%")
        for _ in range(4):
            step(bar, now, 1.0)
        assert terminal.shown()[-1].startswith("epoch 2/3  43%")  # 13 of 30


def test_the_bar_fits_a_real_terminal_of_eighty_columns(now):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        with progress(now, terminal, epochs=150, description="wrn28_10 on cifar100") as bar:
            run_epoch(bar, now, 149, seconds=0.0001, validation_accuracy=1.0)
        terminal.write("the end")
        terminal.flush()
        screen = b""
        while b"the end" not in screen:  # what was written comes in as many pieces as it likes
            screen += os.read(ours, 4096)
    os.close(ours)
    lines = re.split("[\r\n]+", screen.decode().removesuffix("the end").strip())
    assert lines[0] == "wrn28_10 on cifar100"
    assert lines[-1].startswith("epoch 150/150  99%|")
    assert lines[-1].endswith("| 00:00 left, loss 1.000, val acc 100.0%, 80,000 images/s")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("error", [None, FloatingPointError, KeyboardInterrupt])
def test_the_terminal_is_left_at_the_start_of_a_line(now, error):
    terminal = Terminal()
    try:
        with progress(now, terminal) as bar:
            bar.step(metrics(ready=never))
            assert not terminal.getvalue().endswith("\n")
            if error:
                raise error
    except (FloatingPointError, KeyboardInterrupt):
        pass
    bar.close()
    assert terminal.getvalue().endswith("\n")
    assert terminal.getvalue().count("\n") == 1


def test_a_log_has_one_line_for_each_epoch(now):
    log = io.StringIO()
    with progress(now, log, description="resnet8 on digits") as bar:
        now[0] += 1000.0  # compilation
        run_epoch(
            bar, now, 1, train_loss=1.5, validation_loss=1.25, validation_accuracy=0.75, cost=1.0
        )
        run_epoch(bar, now, 2, train_loss=1.0)
        run_epoch(bar, now, 3, train_loss=0.5, evaluation=0.0)
    validated = "validation loss 2.0000, validation accuracy 50.00%"
    assert log.getvalue().splitlines() == [
        "resnet8 on digits",
        "epoch 1/3: train loss 1.5000, validation loss 1.2500, validation accuracy 75.00%, "
        "8 images/s, 02:00 left",  # twice ten steps of a second and fifty seconds of evaluation
        f"epoch 2/3: train loss 1.0000, {validated}, 8 images/s, 01:00 left",
        f"epoch 3/3: train loss 0.5000, {validated}, 8 images/s, 00:00 left",
    ]


def test_time_left_of_a_resumed_run_is_by_its_own_speed(now):
    log = io.StringIO()
    with progress(now, log, epochs=12, start_step=100) as bar:
        run_epoch(bar, now, 11, evaluation=0.0)
    (line,) = log.getvalue().splitlines()
    assert line.startswith("epoch 11/12: ") and line.endswith("50.00%, 8 images/s, 00:10 left")


@pytest.mark.parametrize(("file", "bar"), [(Terminal, 1), (io.StringIO, 0)])
def test_a_terminal_has_a_bar_and_a_log_has_lines(now, file, bar):
    stream = file()
    with progress(now, stream) as shown:
        run_epoch(shown, now, 1, train_loss=1.0)
    assert ("%|" in stream.getvalue()) == bool(bar)
    assert ("epoch 1/3: train loss 1.0000" in stream.getvalue()) != bool(bar)


def test_standard_error_is_the_default(capsys):
    with contextlib.closing(Progress(1, 1, 1)) as bar:
        bar.step(metrics())
        bar.epoch({"epoch": 1, **FOUND})
    captured = capsys.readouterr()
    assert "train loss 1.0000" in captured.err
    assert captured.out == ""


def test_arrays_of_jax(now):
    terminal, value = Terminal(), jnp.float32(2.0).block_until_ready()
    with progress(now, terminal) as bar:
        bar.step(Metrics(value, value))
        now[0] += 1.0
        bar.step(metrics(loss=2.0))
        assert "loss 2.000" in terminal.shown()[-1]
