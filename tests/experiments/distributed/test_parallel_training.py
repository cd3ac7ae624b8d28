"""Training on several devices of one process: the numbers of one device, to rounding."""

import dataclasses
import json
import re
import signal

import jax
import mini
import numpy as np
import pytest
from mini import assert_close, configuration
from stops import StopAt, assert_same_run

from lsam_jax.devices.data_parallel import DataParallel
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.distributed import devices, stderr_filter
from lsam_jax.experiments.distributed.process_group import Team
from lsam_jax.experiments.errors import LOST, Stopped
from lsam_jax.experiments.training import evaluation
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.run_directory import Run
from lsam_jax.experiments.training.step import build

CONFIG = configuration(epochs=3)
STEPS = 3 * mini.IMAGES // mini.BATCH


@pytest.fixture(scope="module", autouse=True)
def installed():
    with pytest.MonkeyPatch.context() as patch:
        mini.install(patch.setitem)
        yield


@pytest.fixture(scope="module")
def programs():
    return {n: build(CONFIG, devices=n) for n in (1, 4, 8)}


@pytest.fixture(scope="module")
def runs(programs):
    return {n: fit(CONFIG, program=program) for n, program in programs.items()}


@pytest.mark.slow
def test_several_devices_train_as_one(runs):
    for n in (4, 8):
        assert_close(runs[n], runs[1])
        leaves = jax.tree.leaves(runs[n].state)
        assert all(len(x.sharding.device_set) == n for x in leaves)
        assert all(x.sharding.is_fully_replicated for x in leaves)


def test_each_device_has_its_rows(programs):
    """The compiled step takes the batch in parts, one for each device, and does not gather it."""
    assert isinstance(programs[4].compiled, DataParallel)
    batch = programs[4].batches(0)[0]
    lowered = programs[4].compiled.lower(programs[4].init(0), {}, batch)
    _, _, places = lowered.compile().input_shardings[0]
    assert [p.shard_shape(x.shape)[0] for p, x in zip(places, batch)] == [mini.BATCH // 4] * 2


def test_one_device_is_the_program_it_was(programs):
    assert programs[1].layout is devices.ONE_DEVICE
    state, batch = programs[1].init(0), programs[1].batches(0)[0]
    new, _ = programs[1].step(state, batch)
    assert all(len(x.sharding.device_set) == 1 for x in jax.tree.leaves(new))


def test_evaluation_and_probe_are_those_of_one_device(runs, programs, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 13)  # of 30 images, filled up to 16
    found = []
    for program in programs.values():
        state = program.layout.everywhere(runs[1].state)
        judged = program.evaluate(program.data.validation, state)
        found.append((*judged, program.probe(state, 0).norm))
    np.testing.assert_allclose(found[1:], found[:1] * 2, rtol=1e-5)


def test_a_run_goes_on_with_another_number_of_devices(runs, programs, tmp_path):
    """What is saved does not know of devices, and the note of changes does."""
    for n, step in ((4, 3), (1, 6), (8, 9)):
        with Run(tmp_path, CONFIG, resume=True, devices=n) as run:
            changed = {} if n == 4 else {"devices": (4, n)}
            assert run.environment_changes() == changed
            with pytest.raises(Stopped, match=f"SIGTERM after step {step}; everything is saved"):
                fit(CONFIG, program=programs[n], run=run, watcher=StopAt(step))
    with Run(tmp_path, CONFIG, resume=True) as run:
        result = fit(CONFIG, program=programs[1], run=run)
    assert_close(result, runs[1])
    assert "devices" not in json.loads((tmp_path / "config.json").read_text())["config"]


def test_one_device_goes_on_bit_for_bit_as_ever(runs, programs, tmp_path):
    with Run(tmp_path, CONFIG) as run, pytest.raises(Stopped):
        fit(CONFIG, program=programs[1], run=run, watcher=StopAt(5))
    with Run(tmp_path, CONFIG, resume=True) as run:
        assert_same_run(fit(CONFIG, program=programs[1], run=run), runs[1])


def test_a_directory_from_before_devices_were_noted_had_one(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        file = tmp_path / "environment.json"
        noted = json.loads(file.read_text())
        del noted["devices"]
        file.write_text(json.dumps(noted))
        assert run.environment_changes() == {}


@pytest.mark.slow
def test_the_command_takes_devices(tmp_path, capsys):
    train = [*mini.TRAIN, "--epochs", "1", "--log", "json", "--out"]
    assert main([*train, str(tmp_path / "a"), "--devices", "4"]) == 0
    printed = capsys.readouterr().err
    assert re.search("^note: 4 devices are emulated on the CPU", printed, re.M)
    assert main([*train, str(tmp_path / "b")]) == 0
    assert "emulated" not in capsys.readouterr().err
    a, b = (json.loads((tmp_path / d / "metrics.jsonl").read_text()) for d in "ab")
    np.testing.assert_allclose(a["train_loss"], b["train_loss"], rtol=1e-5)
    assert json.loads((tmp_path / "a" / "environment.json").read_text())["devices"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "5"], "batch_size=16 cannot be shared out evenly to devices=5"),
        (["--devices", "9"], "devices=9 is more than the 8"),
        (["--devices", "0"], "devices=0 must be at least 1"),
        (["--processes", "2"], "need --coordinator"),
        (["--process", "1"], "need --coordinator"),
        (["--coordinator", "host"], "--coordinator=host must read HOST:PORT"),
        (["--coordinator", "localhost:99999"], "must read HOST:PORT"),
        (["--coordinator", "localhost:4321", "--processes", "2"], "--process I from 0.*None"),
        (
            ["--coordinator", "localhost:4321", "--processes", "2", "--process", "2"],
            "--process I from 0 to N - 1; got 2 and 2",
        ),
        (["--coordinator", "localhost:4321", "--distributed"], "give it or --coordinator"),
        (["--coordinator", "localhost:4321", "--timeout", "0"], "--timeout=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_runs(arguments, words, tmp_path, capsys):
    assert main([*mini.TRAIN, "--out", str(tmp_path / "run"), *arguments]) == 2
    assert re.fullmatch(
        rf"(note: .*\n)?lsam-jax: error: [^\n]*{words}[^\n]*\n", capsys.readouterr().err
    )


def test_devices_do_not_make_a_configuration():
    names = {field.name for field in dataclasses.fields(CONFIG)}
    assert not names & {"devices", "processes", "coordinator"}


def test_a_process_alone_is_a_team(capsys):
    team = Team()
    assert (team.is_first, team.index, team.count) == (True, 0, 1)
    assert team.each(lambda: 3) == team.first(lambda: 3) == 3
    assert team.tell({"a": 1}) == {"a": 1}
    assert team.agree(signal.SIGTERM, ahead=2) == signal.SIGTERM
    team.check_same({"a": 1})
    team.meet()
    with pytest.raises(ZeroDivisionError):
        team.each(lambda: 1 / 0)
    with team.noticing_losses(), pytest.raises(ValueError, match="Gloo"):
        raise ValueError("Gloo: not of several processes")


FATAL = b"F1124 13:55:08.065254 1 client.h:80] Terminating process because the JAX distributed " + (
    b"service detected fatal errors. This most likely\n"
)
COMPLAINT = b"E1124 13:55:08.1 1 coordination_service_agent.cc:289] Polled an error\n"
OWN = b"lsam-jax: error: " + LOST.encode() + b"\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ([b"epoch 1\n", b"anything\n"], [b"epoch 1\n", b"anything\n"]),
        ([b"[Gloo] Rank 0 is connected\n", b"a\n"], [b"a\n"]),
        ([b"[Gloo] Rank [Gloo] Rank 1\n", b"0 is connected to 1 peer ranks.\n", b"1\n"], []),
        ([b"a\n", COMPLAINT, b"more\n", FATAL, b"stack\n"], [b"a\n", b"instead\n"]),
        ([FATAL, b"stack\n"], [b"instead\n"]),
        ([OWN, COMPLAINT, FATAL], [OWN]),
        ([COMPLAINT, OWN, FATAL, b"stack\n"], [OWN]),
        ([COMPLAINT, b"Traceback\n"], [COMPLAINT, b"Traceback\n"]),  # not the end of the process
    ],
)
def test_jaxs_account_of_a_loss_becomes_one_line(written, shown):
    assert list(stderr_filter.filtered(written, b"instead")) == shown
