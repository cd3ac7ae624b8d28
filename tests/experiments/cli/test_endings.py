"""How commands end: their status, and the line that says why."""

import signal
import sys
import threading

import pytest

from lsam_jax import experiments
from lsam_jax.experiments.cli import main as command
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.errors import Stopped
from lsam_jax.experiments.training import loop
from lsam_jax.experiments.training.loop import NonFiniteLossError

COMPARE = ["compare", "--epochs", "2", "--set", "width=4", "--set", "batch_size=32", "--seeds", "2"]


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.slow
def test_a_stopped_run_has_the_signals_status(capsys, monkeypatch, tmp_path):
    stopped = Stopped("stopped by SIGTERM after step 3; saved", signal.SIGTERM)
    monkeypatch.setattr(loop, "fit", failing(stopped))
    assert main([*COMPARE, "--out", str(tmp_path)]) == 143
    said = capsys.readouterr().err
    assert "stopped by SIGTERM after step 3" in said
    assert "--resume" not in said  # it has none


@pytest.mark.parametrize(
    ("words", "way"),
    [
        ("train digits-resnet8", "; --resume goes on from there"),
        ("reproduce table1", "; the same command goes on from there"),
        ("compare", ""),
    ],
)
def test_how_to_go_on_is_what_the_command_has(words, way, capsys, monkeypatch):
    name = words.split()[0]
    stopped = Stopped("stopped by SIGTERM after step 3", signal.SIGTERM)
    monkeypatch.setattr(f"lsam_jax.experiments.cli.{name}.run", failing(stopped))
    assert main(words.split()) == 143
    assert capsys.readouterr().err == f"lsam-jax: stopped by SIGTERM after step 3{way}\n"


@pytest.mark.slow
def test_ctrl_c_and_a_run_that_went_wrong_have_their_own_codes(tmp_path, capsys, monkeypatch):
    arguments = [*COMPARE, "--out", str(tmp_path)]
    monkeypatch.setattr(loop, "fit", failing(KeyboardInterrupt()))
    assert main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(loop, "fit", failing(NonFiniteLossError("the loss is nan at step 3")))
    assert main(arguments) == 1
    assert "lsam-jax: error: the loss is nan at step 3\n" in capsys.readouterr().err


def test_a_missing_extra_is_one_line(tmp_path, capsys, monkeypatch):
    kept = ("lsam_jax.experiments.cli",)
    for name in [name for name in sys.modules if name.startswith("lsam_jax.experiments.")]:
        if not name.startswith(kept):
            monkeypatch.delitem(sys.modules, name)
            package, _, own = name.rpartition(".")
            if package == "lsam_jax.experiments":
                monkeypatch.delattr(experiments, own)
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    assert main(["compare", "--out", str(tmp_path)]) == 2
    message = 'lsam-jax: error: flax is missing: pip install "lsam-jax[train]"\n'
    assert capsys.readouterr().err == message


def test_a_bug_is_not_taken_for_a_missing_extra(monkeypatch):
    bug = ModuleNotFoundError("no", name="lsam_jax.oops")
    monkeypatch.setattr("lsam_jax.experiments.cli.compare.run", failing(bug))
    with pytest.raises(ModuleNotFoundError):
        main(["compare"])


def test_a_process_says_what_its_own_thread_abandons_and_no_more(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setattr(command, "main", lambda at_failure: 0)
    assert command.program() == 0
    other = threading.Thread(target=sys.unraisablehook, args=("of Orbax",))
    other.start()
    other.join()
    sys.unraisablehook("of the command")
    assert said == ["of the command"]
