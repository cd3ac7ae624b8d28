"""Killed for real, and going on: the end is that of a run that nothing happened to.

Every process is started as a user would. A cache of compiled programs keeps them quick; the run
that is never killed fills it.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

ARGUMENTS = ["train", "digits-resnet8", "--method", "layerwise_sam", "--log", "json"]
SMALL = [
    "--set", "width=4", "--epochs", "2", "--set", "batch_size=100", "--checkpoint-every", "1",
]  # fmt: skip
STEPS = 2 * (1200 // 100)
PATIENCE = 240  # seconds; nothing is asserted about time


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    quick = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
    quick["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return {**os.environ, **quick}


class Process:
    """A run in a process of its own."""

    def __init__(self, out, environment, *more, largest_file=None):
        command = [sys.executable, "-m", "lsam_jax.experiments.cli", *ARGUMENTS, *SMALL]
        command += ["--out", str(out), *more]
        if largest_file is not None:  # in blocks of 512 bytes
            command = ["sh", "-c", f'ulimit -f {largest_file}; exec "$@"', "sh", *command]
        self._process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True
        )

    def wait(self):
        """Its exit status and what it said."""
        _, error = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, error

    def until(self, condition):
        """Waits for a moment in its life."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, self._process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.0005)
        return self

    def send(self, number):
        """Sends a signal, and waits for the end."""
        self._process.send_signal(number)
        return self.wait()


def names(out):
    checkpoints = out / "checkpoints"
    return [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []


def saved(out):
    return sorted(int(name) for name in names(out) if name.isdigit())


def writing(out):
    return any("tmp" in name for name in names(out))


def result(out):
    """What a run leaves: its metrics, and the digest of every array that it ended with."""
    assert saved(out)[-1] == STEPS
    meta = json.loads((out / "checkpoints" / str(STEPS) / "meta" / "metadata").read_text())
    return (out / "metrics.jsonl").read_bytes(), meta["digest"], meta["own"]


@pytest.fixture(scope="module")
def unharmed(environment, tmp_path_factory):
    out = tmp_path_factory.mktemp("unharmed") / "run"
    status, error = Process(out, environment).wait()
    assert status == 0, error
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    return result(out)


@pytest.mark.slow
def test_the_same_run_in_another_process_ends_the_same(unharmed, environment, tmp_path):
    status, error = Process(tmp_path / "run", environment).wait()
    assert (status, result(tmp_path / "run")) == (0, unharmed), error


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_ends_the_same(unharmed, environment, tmp_path):
    out = tmp_path / "run"
    first = Process(out, environment).until((out / "config.json").exists)
    assert first.send(signal.SIGKILL)[0] == -signal.SIGKILL  # before any checkpoint
    while_writing = 0
    for step in (3, 9, 12):  # in the first epoch, at its end, in the second
        process = Process(out, environment, "--resume")
        process.until(lambda step=step: (saved(out) or [0])[-1] >= step and writing(out))
        process.send(signal.SIGKILL)
        while_writing += writing(out)
        assert saved(out)[-1] < STEPS
    assert while_writing  # something unfinished was left for the next process to find
    status, error = Process(out, environment, "--resume").wait()
    assert status == 0, error
    assert result(out) == unharmed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_a_message(unharmed, environment, tmp_path, number):
    out = tmp_path / "run"
    process = Process(out, environment).until(lambda: (saved(out) or [0])[-1] >= 2)
    status, error = process.send(number)
    assert status == 128 + number
    assert f"stopped by {number.name} after step {saved(out)[-1]}; everything is saved" in error
    assert "--resume goes on from there" in error
    assert "Traceback" not in error
    status, error = Process(out, environment, "--resume").wait()
    assert status == 0, error
    assert result(out) == unharmed


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(unharmed, environment, tmp_path):
    out = tmp_path / "run"
    Process(out, environment).until(lambda: len(saved(out)) > 1).send(signal.SIGKILL)
    last = saved(out)[-1]

    status, error = Process(out, environment, "--resume", largest_file=8).wait()
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("lsam-jax: error: ")]
    assert len(lines) == 1
    assert "could not be written" in lines[0]
    assert f"the last good one is that of step {last}" in lines[0]
    assert "Traceback" not in error
    assert saved(out)[-1] == last
    status, error = Process(out, environment, "--resume").wait()
    assert status == 0, error
    assert result(out) == unharmed
