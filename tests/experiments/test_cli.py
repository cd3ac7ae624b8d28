"""The command line, for real but small: tables, files, errors."""

import dataclasses
import json
import math
import re
import sys
from functools import partial

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from tiny import TINY

from lsam_jax import experiments
from lsam_jax.experiments import (
    bench,
    cli,
    compare,
    data,
    models,
    training,
)
from lsam_jax.experiments.training import NonFiniteLossError

COMPARE = ["compare", "--epochs", "2", "--seeds", "2", "--width", "4", "--batch-size", "32"]


def test_compare_trains_prints_and_writes(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(data.LOADERS, "digits", lambda: small)
    out = tmp_path / "new" / "directory"
    assert cli.main([*COMPARE, "--rounds", "4", "--out", str(out)]) == 0
    names = ["SGD", "SAM", "layer-wise SAM"]
    printed = capsys.readouterr()
    for name in names:
        assert re.search(rf"^ *{name} +\d+\.\d\d ±\d+\.\d\d ", printed.out, re.MULTILINE)
    assert "100%" in printed.err  # the progress bar
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.json",
        "gradient_norm.png",
        "learning_curves.png",
        "perturbations.png",
    ]
    report = json.loads((out / "compare.json").read_text())
    assert list(report["methods"]) == names
    assert report["environment"]["jax"] == jax.__version__
    for name, row in report["methods"].items():
        last = [history["validation_accuracy"][-1] for history in row["histories"]]
        assert row["validation_accuracy"]["values"] == last
        np.testing.assert_allclose(row["validation_accuracy"]["mean"], np.mean(last))
        np.testing.assert_allclose(
            row["validation_accuracy"]["std"], abs(last[0] - last[1]) / math.sqrt(2), atol=1e-12
        )
        assert row["step_cost"]["ratio"] > 0
        assert row["config"]["epochs"] == 2
        assert row["config"]["method"] == {"SGD": "sgd", "SAM": "sam"}.get(name, "lsam")
    assert report["methods"]["SGD"]["step_cost"]["ratio"] == 1.0
    shares = [report["methods"][name]["perturbed_layers"] for name in names]
    np.testing.assert_allclose(shares, [0.0, 1.0, 2 / 11])
    for picture in ("gradient_norm", "learning_curves", "perturbations"):
        pixels = imread(out / f"{picture}.png")
        assert min(pixels.shape[:2]) > 400
        assert pixels[..., :3].std() > 0.05  # something is drawn
    blue, green = np.array([0, 0x72, 0xB2]) / 255, np.array([0, 0x9E, 0x73]) / 255
    curves = imread(out / "learning_curves.png")[..., :3]
    bars = imread(out / "perturbations.png")[..., :3]
    assert (np.abs(curves - blue).max(axis=-1) < 0.01).sum() > 100
    assert (np.abs(bars - green).max(axis=-1) < 0.01).sum() > 1000


def test_bench_measures_every_program(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(models.PRESETS, "tiny", partial(models.ResNet, stages=(2,), width=4))
    file = tmp_path / "bench.json"
    arguments = ["--model", "tiny", "--batch", "4", "--image-size", "8", "--repeats", "1"]
    assert cli.main(["bench", *arguments, "--no-gate", "--out", str(file)]) == 0
    assert "Cost of a gradient step relative to SGD" in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["settings"]["gate"] is False
    assert len(report["rows"]) == 4
    for row in report["rows"].values():
        assert list(row["costs"]) == [
            "SGD", "layer-wise SAM", "static cut", "textbook mask", "optax.contrib.sam",
        ]  # fmt: skip
        assert row["difference_from_textbook"] < 1e-5  # the forced layers, and no others
    programs = report["programs"]
    assert 1.8 < programs["textbook mask"]["flops_relative_to_sgd"] < 2.2
    assert 1.0 < programs["static cut: last convolution, head"]["flops_relative_to_sgd"] < 1.6
    assert programs["textbook mask"]["temporary_relative_to_textbook"] == 1.0
    assert all(program["compile_seconds"] > 0 for program in programs.values())


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_help_suffices(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--out" in text
    assert "default: " in text
    assert len(text.split("\n\n")[1]) > 200  # says what it does


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--out", "{file}/below"], "cannot write into directory.*--out"),
        (["bench", "--out", "{file}/below/x.json"], "cannot write into directory.*--out"),
        (["bench", "--out", "{directory}"], "is a directory; --out must name a file"),
        (["compare", "--k", "99", "--out", "{directory}"], "k.*99"),
        (["compare", "--k", "-1", "--out", "{directory}"], "k=-1"),
        (["compare", "--seeds", "0", "--out", "{directory}"], "--seeds=0"),
        (["compare", "--rounds", "1", "--out", "{directory}"], "rounds=1"),
        (["compare", "--sam-rho", "-1", "--out", "{directory}"], "rho=-1"),
        (["compare", "--model", "vgg", "--out", "{directory}"], "model='vgg'"),
        (["bench", "--model", "vgg"], "model='vgg'"),
        (["bench", "--repeats", "0"], "repeats=0"),
    ],
)
def test_user_errors_are_one_line_before_anything_runs(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(training, "fit", failing(AssertionError("trained")))
    monkeypatch.setattr(bench, "_bench_network", failing(AssertionError("measured")))
    (tmp_path / "file").write_text("")
    places = {"file": tmp_path / "file", "directory": tmp_path}
    assert cli.main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"lsam-jax: error: [^\n]*{words}[^\n]*\n", error)


def test_ctrl_c_and_a_run_that_went_wrong_have_their_own_codes(tmp_path, capsys, monkeypatch):
    arguments = [*COMPARE, "--out", str(tmp_path)]
    monkeypatch.setattr(training, "fit", failing(KeyboardInterrupt()))
    assert cli.main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(training, "fit", failing(NonFiniteLossError("the loss is nan at step 3")))
    assert cli.main(arguments) == 1
    assert "lsam-jax: error: the loss is nan at step 3\n" in capsys.readouterr().err


def test_a_missing_extra_is_one_line(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("lsam_jax.experiments.")]:
        if name != "lsam_jax.experiments.cli":
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(experiments, name.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    assert cli.main(["compare", "--epochs", "0", "--out", str(tmp_path)]) == 2
    message = 'lsam-jax: error: flax is missing: pip install "lsam-jax[train]"\n'
    assert capsys.readouterr().err == message


def test_a_bug_is_not_taken_for_a_missing_extra(monkeypatch):
    monkeypatch.setattr(
        cli.importlib, "import_module", failing(ModuleNotFoundError("no", name="lsam_jax.oops"))
    )
    with pytest.raises(ModuleNotFoundError):
        cli.main(["compare"])


def test_compare_refuses_recipes_that_differ(tmp_path):
    configs = compare.default_configs(TINY)
    configs["SAM"] = dataclasses.replace(configs["SAM"], epochs=3)
    with pytest.raises(ValueError, match="differ in more than the method"):
        compare.compare(configs, [0], tmp_path)
    with pytest.raises(ValueError, match=r"seeds=\[0, 0\]"):
        compare.compare(compare.default_configs(TINY), [0, 0], tmp_path)
