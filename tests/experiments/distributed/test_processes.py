"""Several processes, for real: a pair of them trains as one does, stops, and survives a loss."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import mini
import pytest
from mini import assert_close, configuration
from stops import StopAt

from lsam_jax.experiments.errors import STATUS as LOST_ONE
from lsam_jax.experiments.errors import Stopped
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.run_directory import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not tried there")

LIMIT = 120
"""Seconds after which a test gives up on processes; none of them waits for it."""
LOG_OF_JAX = re.compile(r"^[IWEF]\d{4} |Gloo|Traceback", re.MULTILINE)
ENVIRONMENT = {
    **os.environ,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start(out, process, port, *options, processes=2, timeout=20):
    """One of the processes of a run, as a shell would start it."""
    address = ["--coordinator", f"localhost:{port}", "--processes", str(processes)]
    command = [sys.executable, mini.__file__, *mini.TRAIN, *address, "--process", str(process)]
    return subprocess.Popen(
        [*command, "--timeout", str(timeout), "--log", "json", "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def pair(out, *options, **more):
    port = free_port()
    return [start(out, process, port, *options, **more) for process in range(2)]


def ended(processes):
    """Their exit status, output and errors."""
    try:
        said = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


def wait_for_epochs(out, processes, count=2):
    """Until the processes have recorded so many epochs, and go on."""
    file, until = out / "timing.jsonl", time.monotonic() + LIMIT

    def recorded():
        return file.read_text().count("\n") if file.exists() else 0

    before = recorded()
    while recorded() < before + count:
        assert all(process.poll() is None for process in processes), ended(processes)
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def installed(monkeypatch):
    mini.install(monkeypatch.setitem)


@pytest.mark.slow
def test_two_processes_are_one_with_their_devices(tmp_path, installed):
    """They go on with what one process began, in the middle of an epoch, which is given to both."""
    config = configuration(epochs=3)
    with Run(tmp_path, config) as run, pytest.raises(Stopped):
        fit(config, run=run, watcher=StopAt(5))
    first, second = ended(pair(tmp_path, "--epochs", "3", "--devices", "4", "--resume"))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "validation accuracy" in first[1]
    assert "4 devices are emulated" in first[2]
    assert "this run began with devices 1, now it is 4" in first[2]
    assert "epoch 3/3" in first[2]
    assert not LOG_OF_JAX.search(first[2])
    assert second[1:] == ("", "")
    with Run(tmp_path, config, resume=True) as run:
        got = fit(config, run=run, watcher=StopAt(99))  # nothing is left to do
        assert run.checkpoints.steps[-1] == 12
    assert_close(got, fit(config, devices=4))


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_a_lost_process_ends_it(tmp_path, installed):
    config = configuration(epochs=4000)
    options = ("--epochs", "4000", "--resume")
    processes = pair(tmp_path, *options, "--checkpoint-every", "3")
    wait_for_epochs(tmp_path, processes)
    processes[1].send_signal(signal.SIGTERM)
    (status, _, first), (other, _, second) = ended(processes)
    assert (status, other) == (143, 143), (first, second)
    stopped = [line for line in first.splitlines() if line.startswith("lsam-jax: ")]
    assert stopped == [line for line in second.splitlines() if line.startswith("lsam-jax: ")]
    assert "stopped by SIGTERM after step" in stopped[0]
    assert "everything is saved; --resume" in stopped[0]

    processes = pair(tmp_path, *options)
    wait_for_epochs(tmp_path, processes)
    processes[1].kill()
    (status, _, said), _ = ended(processes)
    assert status == LOST_ONE
    assert_one_line(said, "another process of this run has ended.*--resume")

    processes = pair(tmp_path, *options)
    wait_for_epochs(tmp_path, processes)
    processes[0].kill()
    _, (status, output, said) = ended(processes)
    assert status != 0  # process 0 takes JAX's coordinator along, and JAX may end this one first
    assert_one_line(said, "another process of this run has ended.*--resume")
    assert output == ""

    recorded = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    with Run(tmp_path, config, resume=True) as run:  # alone, on other devices
        saved = run.checkpoints.steps[-1]
        assert saved in {4 * recorded, 4 * recorded - 4}  # killed before or after it was saved
        with pytest.raises(Stopped, match=f"after step {saved + 6}; everything is saved"):
            fit(config, run=run, watcher=StopAt(saved + 6), devices=2)


def assert_one_line(text, words):
    usual = ("epoch", "resnet8", "note", "WARNING:absl:Grain")
    lines = [line for line in text.splitlines() if not line.startswith(usual)]
    assert len(lines) == 1, text
    assert re.search(rf"^lsam-jax: error: .*{words}", lines[0])


def test_processes_that_differ_all_say_how(tmp_path):
    port = free_port()
    processes = [
        start(tmp_path, i, port, "--set", f"rho={0.1 + i / 10}", "--epochs", str(2 + i))
        for i in range(2)
    ]
    words = "epochs=2 in process 0, epochs=3 in process 1; options.rho=0.1 in process 0, .*=0.2 in"
    for status, output, said in ended(processes):
        assert (status, output) == (2, "")
        assert_one_line(said, words)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_who_waits_in_vain_says_so(tmp_path):
    """Neither the others nor process 0 come up; and a port that is taken."""
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as taken:
        taken.bind(("", 0))
        taken.listen()
        waiting = [
            *(start(tmp_path, process, free_port(), timeout=1) for process in (0, 1)),
            start(tmp_path, 0, taken.getsockname()[1]),
        ]
        *vain, refused = ended(waiting)
    for status, output, said in vain:
        assert (status, output) == (2, "")
        assert_one_line(said, "did not all come up within --timeout=1 seconds at localhost")
    assert refused[0] == 2
    assert_one_line(refused[2], "process 0 cannot listen on port .*another port")
