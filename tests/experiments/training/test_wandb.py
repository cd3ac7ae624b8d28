"""The metrics of a run in Weights & Biases: a stand-in, and the package itself offline."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from epochs import log, record, timing

from lsam_jax.experiments.training import loggers
from lsam_jax.experiments.training.loggers import scalars


class Run:
    """As far as W&B's run is used; steps only rise, and the server knows the last one."""

    def __init__(self, id, step):
        self.id, self.step, self.logged, self.finished = id, step, {}, 0

    def log(self, values, step):
        assert step >= self.step, "W&B would refuse this step with a warning"
        self.step = step
        self.logged[step] = values

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.runs, module.calls, module.Error = {}, [], type("Error", (Exception,), {})
    module.offline = False

    def init(**options):
        module.calls.append(options)
        id = options["id"] or f"new{len(module.runs)}"
        # Offline it knows no earlier run, and writes another of the same id.
        run = Run(id, 0) if module.offline else module.runs.get(id, Run(id, 0))
        module.runs[id] = run
        run.step += bool(run.logged)  # a resumed run starts behind its last step
        return run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def wandb_sink(directory):
    return loggers.open_sinks(["wandb"], directory, {"rho": 0.1}, "resnet8-lsam")[-1]


def test_wandb_gets_every_epoch_by_step(tmp_path, wandb):
    log(wandb_sink(tmp_path), (1, 2))
    (call,) = wandb.calls
    assert call == {
        "id": None,
        "resume": "allow",
        "dir": str(tmp_path),
        "project": "lsam-jax",
        "config": {"rho": 0.1},
        "name": "resnet8-lsam",
    }
    (run,) = wandb.runs.values()
    assert list(run.logged) == [390, 780]
    np.testing.assert_equal(run.logged[780], scalars(record(2), timing(2)))
    assert run.finished == 1


def test_a_resumed_run_goes_on_with_the_same_wandb_run(tmp_path, wandb):
    log(wandb_sink(tmp_path), (1, 2))
    log(wandb_sink(tmp_path), (2, 3), restored=1)
    assert [call["id"] for call in wandb.calls] == [None, "new0"]
    (run,) = wandb.runs.values()
    assert list(run.logged) == [390, 780, 1170]


def test_a_run_that_is_resumed_offline_logs_what_is_new(tmp_path, wandb):
    wandb.offline = True
    log(wandb_sink(tmp_path), (1, 2))
    log(wandb_sink(tmp_path), (2, 3), restored=1)
    assert [call["id"] for call in wandb.calls] == [None, "new0"]
    assert list(wandb.runs["new0"].logged) == [780, 1170]


def test_a_run_may_get_wandb_when_it_is_resumed(tmp_path, wandb):
    log(wandb_sink(tmp_path), (3,), restored=2)
    (run,) = wandb.runs.values()
    assert list(run.logged) == [390, 780, 1170]


def test_runs_in_two_directories_are_two(tmp_path, wandb):
    for name in "ab":
        (tmp_path / name).mkdir()
        log(wandb_sink(tmp_path / name), (1,))
    assert len(wandb.runs) == 2


def test_the_users_project_is_not_overridden(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    log(wandb_sink(tmp_path), ())
    assert wandb.calls[0]["project"] is None


def test_wandb_that_cannot_start_says_what_to_do(tmp_path, wandb):
    def init(**options):
        raise wandb.Error("No API key configured")

    wandb.init = init
    sink = wandb_sink(tmp_path)
    with pytest.raises(OSError, match=r"No API key configured.*wandb login.*WANDB_MODE=offline"):
        sink.start([])
    sink.close()
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
def test_an_offline_run_of_wandb_itself(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    (directory := tmp_path / "run").mkdir()
    log(wandb_sink(directory), (1, 2, 3))
    log(wandb_sink(directory), (3, 4), restored=2)
    id = (directory / "wandb_id").read_text().strip()
    stored = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    assert [path.name for path in stored] == [f"run-{id}.wandb"] * len(stored)
    content = b"".join(path.read_bytes() for path in stored)
    for name in scalars(record(4), timing(4)):
        assert name.encode() in content
    assert b"resnet8-lsam" in content
