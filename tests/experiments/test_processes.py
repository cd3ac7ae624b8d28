"""Several processes, for real: a pair of them trains as one does, stops, and survives a loss."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import mini
import numpy as np
import pytest

from lsam_jax.experiments import presets
from lsam_jax.experiments.config import Config
from lsam_jax.experiments.run import Run
from lsam_jax.experiments.training import fit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no Grain")

LIMIT = 120
"""Seconds after which a test gives up on processes; none of them waits for it."""
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


def wait_for_epoch(out, epoch, processes):
    """Until the run has recorded so many epochs and goes on."""
    file, until = out / "timing.jsonl", time.monotonic() + LIMIT
    while not file.exists() or file.read_text().count("\n") < epoch:
        assert all(process.poll() is None for process in processes), ended(processes)
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def installed(monkeypatch):
    mini.install(monkeypatch.setitem)


def configuration(**changes) -> Config:
    options = {"batch_size": mini.BATCH, **changes}
    return presets.preset("digits-resnet8").configure("lsam", **options)


def assert_close(got, want):
    """Two runs in everything, to rounding."""
    for name, values in want.history.to_json().items():
        if name == "layers":
            assert list(values) == list(got.history.layers)
        else:
            np.testing.assert_allclose(getattr(got.history, name), values, rtol=2e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(got.state), jax.tree.leaves(want.state), strict=True):
        if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def resumed(out, config, **options):
    """What goes on from what a run has left, in this process."""
    with Run(out, config, resume=True) as run:
        return fit(config, run=run, **options)


def test_two_processes_are_one_with_their_devices(tmp_path, installed):
    first, second = ended(pair(tmp_path, "--epochs", "3", "--devices", "4"))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "validation accuracy" in first[1]
    assert "epoch 3/3" in first[2]
    assert "4 devices are emulated" in first[2]
    assert second[1:] == ("", "")
    got = resumed(tmp_path, configuration(epochs=3))  # nothing is left to do
    assert got.history.epochs == 3
    assert_close(got, fit(configuration(epochs=3), devices=4))
    assert_close(got, fit(configuration(epochs=3)))
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["devices"] == 4
    wider = resumed(tmp_path / "new", configuration(epochs=3))
    assert wider.history.epochs == 3


def test_a_stopped_run_goes_on_and_a_lost_process_ends_it(tmp_path, installed):
    epochs = 4000
    processes = pair(tmp_path, "--epochs", str(epochs), "--checkpoint-every", "3")
    wait_for_epoch(tmp_path, 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    (status, _, first), (other, _, second) = ended(processes)
    assert (status, other) == (143, 143), (first, second)
    stopped = [line for line in first.splitlines() if line.startswith("lsam-jax: ")]
    assert stopped == [line for line in second.splitlines() if line.startswith("lsam-jax: ")]
    assert "stopped by SIGTERM after step" in stopped[0]
    assert "everything is saved; --resume" in stopped[0]

    processes = pair(tmp_path, "--epochs", str(epochs), "--resume")
    wait_for_epoch(tmp_path, 40, processes)
    processes[1].kill()
    (status, _, said), _ = ended(processes)
    assert status != 0
    assert_one_line(said, "another process of this run has ended.*--resume")

    processes = pair(tmp_path, "--epochs", str(epochs), "--resume")
    wait_for_epoch(tmp_path, 80, processes)
    processes[0].kill()
    _, (status, output, said) = ended(processes)
    assert status != 0
    assert_one_line(said, "another process of this run has ended.*--resume")
    assert output == ""


def assert_one_line(text, words):
    lines = [
        line for line in text.splitlines() if not line.startswith(("epoch", "resnet8", "note"))
    ]
    assert len(lines) == 1, text
    assert re.search(rf"^lsam-jax: error: .*{words}", lines[0])
