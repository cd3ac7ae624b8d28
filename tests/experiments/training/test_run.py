"""The directory of a run: one writer, one configuration, and a run that goes on as if unbroken."""

import contextlib
import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from stops import StopAt, assert_same_run
from tiny import STEPS, TINY

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.errors import Stopped
from lsam_jax.experiments.training.loop import NonFiniteLossError, Watcher, fit
from lsam_jax.experiments.training.run_directory import Run, configuration
from lsam_jax.experiments.training.step import Program
from lsam_jax.experiments.training.train import _prepare


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1,), (3, 4), (2, 5, 7)])
def test_a_stopped_run_goes_on_as_if_it_had_not(layerwise, layerwise_run, tmp_path, stops):
    for before, step in zip((0, *stops), stops):
        watcher = StopAt(step)
        with Run(tmp_path, TINY, resume=True) as run:
            with pytest.raises(Stopped, match=f"SIGTERM after step {step}; everything is saved"):
                fit(TINY, program=layerwise, run=run, watcher=watcher)
            assert run.checkpoints.steps[-1] == step
        assert watcher.began == before  # it did go on, and not start anew
    for before in (stops[-1], STEPS):  # the second time nothing is left to do
        watcher = StopAt(99)
        with Run(tmp_path, TINY, resume=True) as run:
            result = fit(TINY, program=layerwise, run=run, watcher=watcher)
        assert watcher.began == before
        assert_same_run(result, layerwise_run)


def test_checkpoints_come_after_every_epoch_and_as_often_as_asked(layerwise, tmp_path):
    class Seen(Watcher):
        steps: list = []  # noqa: RUF012

        def step(self, metrics):
            self.steps.append(tuple(run.checkpoints.steps))

    with Run(tmp_path / "epochs", TINY) as run:
        fit(TINY, program=layerwise, run=run)
        assert run.checkpoints.steps == [4, STEPS]
    with Run(tmp_path / "often", TINY, every=3) as run:
        fit(TINY, program=layerwise, run=run, watcher=Seen())
        assert run.checkpoints.steps == [6, STEPS]
    assert (3, 4) in Seen.steps


def test_a_run_without_a_directory_stops_too(layerwise):
    with pytest.raises(Stopped, match="after step 4; nothing was saved"):
        fit(TINY, program=layerwise, watcher=StopAt(4))


def test_the_configuration_and_the_environment_stand_beside(tmp_path):
    with Run(tmp_path / "new" / "run", TINY, origin={"weights": "12ab"}) as run:
        written = json.loads((run.directory / "config.json").read_text())
        assert Config.from_json(written["config"]) == TINY
        assert configuration(run.directory) == TINY
        assert written["origin"] == {"weights": "12ab"}
        assert json.loads((run.directory / "environment.json").read_text())["jax"]


def test_another_environment_is_noticed(tmp_path):
    with Run(tmp_path, TINY) as run:
        assert run.environment_changes() == {}
    (tmp_path / "checkpoints" / "4").mkdir()
    file = tmp_path / "environment.json"
    began = json.loads(file.read_text())
    file.write_text(json.dumps({**began, "jax": "0.0.1", "date": "long ago"}))
    with Run(tmp_path, TINY, resume=True) as run:
        assert run.environment_changes() == {"jax": ("0.0.1", jax.__version__)}


def test_a_damaged_note_of_the_environment_does_not_stop_a_run(tmp_path, capsys):
    begun(tmp_path)
    (tmp_path / "environment.json").write_text("garbage")
    with Run(tmp_path, TINY, resume=True) as run, contextlib.ExitStack() as stack:
        assert _prepare(run, ["json"], "a run", stack)
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: '{tmp_path}/environment.json' cannot be read (Expecting value")
    assert note.endswith("so what has changed since this run began is not known")


def begun(directory):
    """A run that has saved something."""
    Run(directory, TINY).close()
    (directory / "checkpoints" / "4").mkdir()


def test_a_run_that_saved_nothing_is_no_obstacle(tmp_path):
    other = dataclasses.replace(TINY, epochs=3)
    for config in (TINY, other):
        Run(tmp_path, config).close()
        assert configuration(tmp_path) == config


def test_a_directory_with_a_run_is_not_overwritten(tmp_path):
    begun(tmp_path)
    with pytest.raises(ValueError, match=r"already holds a run; pass --resume .*or choose another"):
        Run(tmp_path, TINY)


def test_a_run_with_a_sequence_among_its_options_is_resumed(tmp_path):
    options = {"k": None, "selection": ("stem/kernel", "head/kernel")}
    config = dataclasses.replace(TINY, options=options)
    Run(tmp_path, config).close()
    (tmp_path / "checkpoints" / "4").mkdir()
    Run(tmp_path, config, resume=True).close()
    assert configuration(tmp_path) == config


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_whose_checkpoints_are_gone_is_not_overwritten(tmp_path, resume):
    Run(tmp_path, TINY).close()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "checkpoints").rmdir()
    with pytest.raises(ValueError, match=r"holds a run, whose checkpoints are gone; delete it, or"):
        Run(tmp_path, TINY, resume=resume)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    Run(tmp_path, TINY).close()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="already holds a run; pass --resume"):
        Run(tmp_path, TINY)
    Run(tmp_path, TINY, resume=True).close()


@pytest.mark.parametrize(
    ("change", "origin", "words"),
    [
        ({"options": {"k": 3}}, {}, "options.k=2 there, options.k=3 now"),
        ({"epochs": 3, "seed": 1}, {}, "epochs=2 there, epochs=3 now; seed=0 there, seed=1 now"),
        ({"decay_at": (0.5,)}, {}, r"decay_at=\[.*\] there, decay_at=\[0.5\] now"),
        ({}, {"weights": "34cd"}, "weights=unset there, weights=34cd now"),
    ],
)
def test_another_configuration_is_not_resumed(tmp_path, change, origin, words):
    begun(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"has another configuration: {words}"):
        Run(tmp_path, dataclasses.replace(TINY, **change), resume=True, origin=origin)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    Run(tmp_path, TINY, resume=True).close()  # and the lock is free


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nosuch": 1}, "unexpected keyword argument 'nosuch'"),
        ({"method": "nosuch"}, "method='nosuch' is not known"),
        ({"format": 99}, "format=99 was written by a later version"),
        ({"format": "new"}, "format='new' was written by a later version"),
    ],
)
def test_a_run_of_another_version_is_named(tmp_path, change, words):
    begun(tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "config": {**settings["config"], **change}}))
    said = rf"'{file}' holds a run that this version does not read \(.*{words}.*\); choose another"
    with pytest.raises(ValueError, match=said):
        Run(tmp_path, TINY, resume=True)
    with pytest.raises(ValueError, match=said):
        configuration(tmp_path)


def test_what_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"has checkpoints but no config.json.*another --out"):
        Run(tmp_path, TINY, resume=True)
    (tmp_path / "config.json").write_text('{"theirs": 1}')
    with pytest.raises(ValueError, match=r"not the configuration of a run"):
        Run(tmp_path, TINY, resume=True)
    with pytest.raises(ValueError, match="--checkpoint-every=0"):
        Run(tmp_path / "x", TINY, every=0)


def test_two_runs_never_write_into_one_directory(tmp_path):
    program = f"""
import sys
from lsam_jax.experiments.config import Config
from lsam_jax.experiments.training.run_directory import Run, configuration
try:
    Run({str(tmp_path)!r}, Config.from_json({TINY.to_json()!r}), resume=True)
except OSError as error:
    sys.exit(str(error))
"""
    with Run(tmp_path, TINY):
        with pytest.raises(OSError, match="another run is writing into"):
            Run(tmp_path, TINY, resume=True)
        other = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert other.returncode == 1
        assert "another run is writing into" in other.stderr
    Run(tmp_path, TINY, resume=True).close()


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(layerwise, tmp_path):
    class Broken(Program):
        def step(self, state, batch):
            after, metrics = layerwise.step(state, batch)
            late = after.step > 4
            return after, metrics._replace(loss=jnp.where(late, jnp.nan, metrics.loss))

    fields = dataclasses.fields(Program)
    broken = Broken(**{field.name: getattr(layerwise, field.name) for field in fields})
    with Run(tmp_path, TINY) as run:
        words = r"is nan at step 4; lower .*; the last good checkpoint is that of step 4 in '"
        with pytest.raises(NonFiniteLossError, match=words):
            fit(TINY, program=broken, run=run)
        assert run.checkpoints.steps == [4]


def test_parameters_that_are_not_finite_are_not_saved(layerwise, tmp_path):
    state = layerwise.init(0)
    state.params["head"]["bias"] = state.params["head"]["bias"].at[0].set(jnp.inf)
    with Run(tmp_path, TINY) as run:
        with pytest.raises(FloatingPointError, match="not finite after step 0; there is no check"):
            run.save(state, None)
        assert run.checkpoints.steps == []
