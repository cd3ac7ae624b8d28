"""The command line, for real but small: tables, files, errors."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from tiny import TINY

import lsam_jax as lsam
from lsam_jax.experiments.cli import options
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.config import presets
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.report import compared
from lsam_jax.experiments.study import compare
from lsam_jax.experiments.study.compare import configurations
from lsam_jax.experiments.training import loop

SMALL = ["--epochs", "2", "--set", "width=4", "--set", "batch_size=32"]
COMPARE = ["compare", *SMALL, "--seeds", "2"]

SMALL_PRESET = dataclasses.replace(presets.preset("digits-resnet8"), config=TINY)


@pytest.mark.slow
def test_compare_trains_prints_and_writes(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(datasets.LOADERS, "digits", lambda data_dir: small)
    out = tmp_path / "new" / "directory"
    quick = ["--set", "layerwise_sam.cuts=1", "--set", "stale.rest=1", "--rounds", "4"]
    assert main([*COMPARE, *quick, "--out", str(out)]) == 0
    names = ["SGD", "SAM", "layer-wise SAM", "stale SAM"]
    printed = capsys.readouterr()
    for name in names:
        assert re.search(
            rf"^ *{name} +(\d+\.\d ±\d+\.\d +){{3}}\d\.\d\d +\d+\.\d *$", printed.out, re.MULTILINE
        )
    assert "100%" in printed.err  # the progress bar
    assert sorted(path.name for path in out.iterdir()) == [
        "accuracy_cost.png",
        "compare.json",
        "gradient_norm.png",
        "learning_curves.png",
        "perturbations.png",
        "radius.png",
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
        best = [max(history["validation_accuracy"]) for history in row["histories"]]
        assert row["best_accuracy"]["values"] == best
        assert all(0 < share < 1 for share in row["labels_fitted"]["values"])
        assert all(seconds > 0 for seconds in row["run_seconds"]["values"])
        assert row["step_cost"]["ratio"] > 0
        assert row["config"]["label_noise"] == 0.4
        assert row["config"]["epochs"] == 2
        assert row["config"]["method"] == {"SGD": "sgd", "SAM": "sam", "stale SAM": "stale"}.get(
            name, "layerwise_sam"
        )
    assert report["methods"]["SGD"]["step_cost"]["ratio"] == 1.0
    shares = [report["methods"][name]["perturbed_layers"] for name in names]
    np.testing.assert_allclose(shares, [0.0, 1.0, 4 / 11, 1.0])
    for picture in ("accuracy_cost", "gradient_norm", "learning_curves", "perturbations", "radius"):
        pixels = imread(out / f"{picture}.png")
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.05  # something is drawn
    blue, green = np.array([0, 0x72, 0xB2]) / 255, np.array([0, 0x9E, 0x73]) / 255
    for place, row in enumerate(report["methods"].values(), start=1):  # none hides another
        row["step_cost"] |= {"mean": 0.4 * place, "low": 0.4 * place, "high": 0.4 * place}
    compared.draw(report, out)
    points = imread(out / "accuracy_cost.png")[..., :3]
    orange = np.array([0xD5, 0x5E, 0]) / 255
    for colour in (blue, orange, green):  # a point for each method, and not a legend alone
        assert (np.abs(points - colour).max(axis=-1) < 0.01).sum() > 2 * 200
    curves = imread(out / "learning_curves.png")[..., :3]
    bars = imread(out / "perturbations.png")[..., :3]
    assert (np.abs(curves - blue).max(axis=-1) < 0.01).sum() > 100
    assert (np.abs(bars - blue).max(axis=-1) < 0.01).sum() > 1000


BENCHMARKS = ["methods", "family", "selections"]


@pytest.mark.parametrize(
    "command",
    [
        "compare",
        "train",
        "cost",
        "report",
        "reproduce",
        "diagnose",
        *(f"bench {name}" for name in BENCHMARKS),
    ],
)
def test_help_suffices(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--out" in text
    assert "default: " in text
    assert len(text.split("\n\n")[1]) > 200  # says what it does


def test_a_docstring_is_the_help_of_a_command():
    found = options.described("Count sheep.\n\n    Counts them one by one,\n    to 3.5.\n    ")
    assert found == {"help": "count sheep", "description": "Counts them one by one,\nto 3.5."}


@pytest.mark.slow
def test_train_shows_writes_and_resumes(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(datasets.LOADERS, "digits", lambda data_dir: small)
    monkeypatch.chdir(tmp_path)
    train = ["train", "digits-resnet8", "--method", "layerwise_sam", *SMALL, "--seed", "3"]
    assert main([*train, "--log", "json"]) == 0
    out = tmp_path / "runs" / "digits-resnet8" / "layerwise_sam-seed3"
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "checkpoints", "config.json", "environment.json", "metrics.jsonl", "timing.jsonl",
    ]  # fmt: skip
    printed = capsys.readouterr().err
    assert re.search(r"epoch 2/2: train loss .*validation accuracy .*images/s", printed)
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["options"] == {"alpha": 0.8, "k": 2, "rho": 0.1}
    assert config["width"] == 4
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [4, 8]
    assert next(iter(records[0]["layer_norms"])) == "stem/kernel"
    assert records[0]["cost"] > 1
    assert sum(records[1]["perturbations"].values()) == 2 * 8
    assert main(train) == 2
    assert "already holds a run; pass --resume" in capsys.readouterr().err
    before = (out / "metrics.jsonl").read_bytes()
    assert main([*train, "--resume"]) == 0
    assert (out / "metrics.jsonl").read_bytes() == before
    accuracy = records[-1]["validation_accuracy"]
    assert f"validation accuracy {accuracy:.2%} after epoch 2" in capsys.readouterr().out
    file = tmp_path / "cost.json"
    assert main(["cost", str(out), "--rounds", "2", "--out", str(file)]) == 0
    assert re.search(r"layerwise_sam +8 +\d+\.\d +1\.00 \(1\.00-1\.00\)", capsys.readouterr().out)
    (row,) = json.loads(file.read_text())["runs"].values()
    assert (row["from_step"], row["cost"]["ratio"]) == (8, 1.0)


def test_a_perturbation_that_is_rounded_away_is_warned_of_once(
    small, tmp_path, capsys, monkeypatch
):
    # Parameters are float32 here, so nothing is: only narrower ones could lose it.
    monkeypatch.setattr(lsam, "perturbation_survival", lambda *args: jnp.float32(0.25))
    monkeypatch.setitem(datasets.LOADERS, "digits", lambda data_dir: small)
    train = ["train", "digits-resnet8", "--method", "sgd", *SMALL, "--log", "json"]
    assert main([*train, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().err
    assert re.findall(r"^warning: (\d+)% of the perturbation survives", printed, re.M) == ["25"]


@pytest.mark.parametrize("name", list(presets.PRESETS))
def test_every_preset_is_listed_and_can_be_inspected_without_data(
    name, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    assert name in capsys.readouterr().out
    assert main(["inspect", name]) == 0
    printed = capsys.readouterr().out
    assert "head/kernel" in printed
    assert "layerwise_sam" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert not (tmp_path / "nothing").exists()


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--out", "{file}/below"], "cannot write into directory.*--out"),
        (["compare", "--set", "layerwise_sam.k=99", "--out", "{directory}"], "k.*99"),
        (["compare", "--set", "layerwise_sam.k=-1", "--out", "{directory}"], "k=-1"),
        (["compare", "--set", "sgd.k=1", "--out", "{directory}"], "not an option of method 'sgd'"),
        (["compare", "--set", "esam.k=1", "--out", "{directory}"], "not compared"),
        (["compare", "--methods", "sgd,sgd", "--out", "{directory}"], "each method once"),
        (["compare", "--methods", "sgd,adam", "--out", "{directory}"], "method='adam'"),
        (
            ["compare", "--preset", "mnist", "--out", "{directory}"],
            "preset 'mnist'.*digits-resnet8",
        ),
        (["compare", "--seeds", "0", "--out", "{directory}"], "--seeds=0"),
        (["compare", "--noise", "40", "--out", "{directory}"], r"--noise=40.0 .* in \[0, 1\]"),
        (["compare", "--noise", "nan", "--out", "{directory}"], "--noise=nan"),
        (
            ["train", "digits-resnet8", "--set", "label_noise=-1"],
            "label_noise must be at least 0 and at most 1; got label_noise=-1",
        ),
        (["train", "digits-resnet8", "--set", "label_noise=40%"], "'40%' is not a number"),
        (
            ["reproduce", "table1", "--set", "label_noise=2", "--out", "{directory}"],
            "label_noise=2.",
        ),
        (["compare", "--rounds", "1", "--out", "{directory}"], "rounds=1"),
        (["compare", "--set", "sam.rho=-1", "--out", "{directory}"], "rho=-1"),
        (["compare", "--set", "model=vgg", "--out", "{directory}"], "model='vgg'"),
        (["train", "mnist"], "preset 'mnist'.*cifar10-resnet20"),
        (["train", "digits-resnet8", "--method", "adam"], "method='adam'"),
        (["train", "digits-resnet8", "--set", "k=99", "--out", "{directory}/a"], "k=99"),
        (
            ["train", "digits-resnet8", "--set", "speed=1"],
            "speed=1 is not an option of method 'layerwise_sam'",
        ),
        (["train", "digits-resnet8", "--set", "rho=far"], "rho.*far"),
        (["train", "digits-resnet8", "--set", "rise=-1"], "rise=-1: target must be above 0"),
        (
            ["train", "digits-resnet8", "--set", "budget=1e-9", "--out", "{directory}/f"],
            r"budget\(fraction=1e-09\) affords no layer",
        ),
        (["train", "digits-resnet8", "--set", "clip_norm=far"], "'far' is not a number or none"),
        (
            ["train", "digits-resnet8", "--method", "sl_sam", "--set", "scale_free=2"],
            "scale_free must be True or False; got scale_free=2",
        ),
        (["train", "digits-resnet8", "--seed", str(2**32)], "seed=4294967296 must be below"),
        (["train", "digits-resnet8", "--set", "rho"], "must read name=value"),
        (["train", "digits-resnet8", "--set", "seed=3"], "seed=3: seed is not a setting.*--help"),
        (["train", "digits-resnet8", "--set", "method=sam"], "method=sam: method is not a setting"),
        (["compare", "--set", "sam.seed=3", "--out", "{directory}"], "seed is not a setting"),
        (["reproduce", "table1", "--set", "seed=3", "--out", "{directory}"], "seed is not"),
        (["train", "digits-resnet8", "--method", "sgd", "--set", "k=1"], "method 'sgd'"),
        (["train", "digits-resnet8", "--out", "{file}/below"], "cannot write into directory"),
        (["train", "digits-resnet8", "--log", "csv", "--out", "{directory}/b"], "'csv'.*wandb"),
        (
            ["train", "digits-resnet8", "--weights", "{file}", "--out", "{directory}/c"],
            "no pretrained part",
        ),
        (
            ["train", "cifar100-vit-b16-head", "--out", "{directory}/d"],
            "--weights FILE.*random_init",
        ),
        (["train", "cifar100-vit-b16-head", "--weights", "{directory}/no"], "not a file"),
        (
            ["train", "cifar10-resnet20", "--data-dir", "{directory}", "--out", "{directory}/e"],
            "not prepared in",
        ),
        (["inspect", "mnist"], "preset 'mnist'"),
        (["cost", "{directory}"], "holds no run"),
        (["cost", "{directory}", "{directory}"], "must name each run once"),
        (["cost", "{directory}", "--rounds", "0"], "--rounds=0"),
        (["inspect", "digits-resnet8", "--set", "k=99"], "k=99"),
    ],
)
def test_user_errors_are_one_line_before_anything_runs(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loop, "fit", failing(AssertionError("trained")))
    (tmp_path / "file").write_text("")
    places = {"file": tmp_path / "file", "directory": tmp_path}
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"lsam-jax: error: [^\n]*{words}[^\n]*\n", error)


def test_compare_refuses_recipes_that_differ(tmp_path):
    configs = configurations(SMALL_PRESET)
    configs["SAM"] = dataclasses.replace(configs["SAM"], epochs=3)
    with pytest.raises(ValueError, match="differ in more than the method"):
        compare.compare(configs, [0], tmp_path)
    with pytest.raises(ValueError, match=r"seeds=\[0, 0\]"):
        compare.compare(configurations(SMALL_PRESET), [0, 0], tmp_path)
