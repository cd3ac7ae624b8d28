"""``lsam-jax bench``: small networks, once around, through the command line."""

import json
import re
from functools import partial

import matplotlib.image
import pytest

from lsam_jax.experiments.bench import (
    methods,
    selections,
    timed,
)
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.models import registry, resnet

SIZE = ["--batch", "4", "--image-size", "8"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    architecture = registry.Architecture(partial(resnet.ResNet, stages=(1,), width=2))
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", architecture)


def bench(tmp_path, *arguments):
    """What a benchmark stored; its picture is not empty."""
    file, picture = tmp_path / "x.json", tmp_path / "new" / "x.png"
    outputs = ["--out", str(file), "--plot", str(picture)]
    assert main(["bench", *arguments, *outputs]) == 0
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.std() > 0.05
    report = json.loads(file.read_text())
    assert report["bench"] == arguments[0].replace("family", "methods")
    assert report["environment"]["jax"]
    return report


@pytest.mark.slow
def test_methods_on_models(tmp_path, capsys, monkeypatch):
    wide = registry.Architecture(partial(resnet.ResNet, stages=(1,), width=4))
    monkeypatch.setitem(registry.ARCHITECTURES, "resnet20", wide)
    some = "sam,look_sam,layerwise_sam,textbook"
    arguments = ["--models", "tiny,resnet20", "--methods", some, "--rounds", "3"]
    report = bench(tmp_path, "methods", *SIZE, *arguments)
    printed = capsys.readouterr().out
    assert list(report["rows"]) == ["tiny", "resnet20"]
    every, chosen = "LookSAM, every 3", "layer-wise SAM, k=4"
    for model, row in report["rows"].items():
        steps = row["steps"]
        assert list(steps) == ["SGD", "SAM", every, chosen, "textbook mask"]
        assert steps["SGD"]["mean"] == steps["SGD"]["counted"] == steps["SGD"]["modelled"] == 1
        for label, step in steps.items():
            assert step["images_per_second"] == pytest.approx(4 / step["seconds"])
            assert f"{model}: {label}" in report["programs"]
            assert label in printed
        assert steps[every]["kinds"] == 2
        for count in ("counted", "modelled"):
            assert steps[every][count] == pytest.approx(1 + (steps["SAM"][count] - 1) / 3)
        assert 1.5 < steps["SAM"]["modelled"] < 1.8 < steps["SAM"]["counted"] <= 2.01
        by_xla = report["programs"][f"{model}: textbook mask"]["flops_relative_to_sgd"]
        assert steps["textbook mask"]["counted"] == pytest.approx(by_xla, abs=0.1)
        assert 1 < steps[chosen]["modelled"] < steps[chosen]["counted"]
    assert all(step["published"] is None for step in report["rows"]["tiny"]["steps"].values())
    paper = {name: s["published"] for name, s in report["rows"]["resnet20"]["steps"].items()}
    assert paper["SGD"] == {"images_per_second": 659.2, "ratio": 1.0}
    assert paper[every]["ratio"] == pytest.approx(659.2 / 595.2)
    assert paper["SAM"] is None
    assert re.search(rf"{every} .* 1\.11 +595 *$", printed, re.MULTILINE)


@pytest.mark.slow
def test_family(tmp_path):
    some = ["functional_sam", "esam", "sl_sam"]
    report = bench(
        tmp_path, "family", "--models", "tiny", *SIZE, "--rounds", "2", "--methods", ",".join(some)
    )
    steps = report["rows"]["tiny"]["steps"]
    assert list(steps) == ["SGD", *some]
    assert all(step["mean"] > 0 and 0.3 < step["counted"] < 2.3 for step in steps.values())


@pytest.mark.slow
def test_selections(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(selections, "COMPILE_ROUNDS", 1)
    report = bench(tmp_path, "selections", "--model", "tiny", *SIZE, "--rounds", "1", "--no-gate")
    assert "Cost of a gradient step relative to SGD" in capsys.readouterr().out
    assert report["settings"]["gate"] is False
    assert len(report["rows"]) == 4
    for row in report["rows"].values():
        assert list(row["steps"]) == [
            "SGD", "layer-wise SAM", "static cut", "textbook mask", "optax.contrib.sam",
        ]  # fmt: skip
        assert row["difference_from_textbook"] < 1e-5  # the forced layers, and no others
        own = row["steps"]["layer-wise SAM"]
        assert 1 <= own["modelled"] <= own["counted"] < 2
    counted = [row["steps"]["layer-wise SAM"]["counted"] for row in report["rows"].values()]
    assert counted[0] < counted[2]  # the stem is dear
    programs = report["programs"]
    assert 1.8 < programs["textbook mask"]["flops_relative_to_sgd"] < 2.2
    assert 1.0 < programs["static cut: last convolution, head"]["flops_relative_to_sgd"] < 1.6
    assert programs["textbook mask"]["temporary_bytes_relative_to_textbook"] == 1.0
    assert all(program["compile_seconds"] > 0 for program in programs.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("selections --out {file}/below/x.json", "cannot write into directory.*another --out"),
        ("selections --out {directory}", "is a directory; --out must name a file"),
        ("methods --plot {directory}", "is a directory; --plot must name a file"),
        ("selections --model vgg", "model='vgg'"),
        ("selections --model vit_b16", "model='vit_b16' has no stages"),
        ("selections --rounds 0", "rounds=0"),
        ("methods --models resnet8,vgg", "model='vgg'"),
        ("methods --models resnet8,resnet8", "models=resnet8,resnet8.*each once"),
        ("methods --methods adam", "method='adam' is not known; choose from sgd, sam, sam-rise"),
        ("family --methods adam", "method='adam' is not known; choose from sgd, sam, generalized"),
    ],
)  # fmt: skip
def test_user_errors_are_one_line_before_anything_runs(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(timed, "compile_step", None)
    (tmp_path / "file").write_text("")
    places = {"file": tmp_path / "file", "directory": tmp_path}
    assert main(["bench", *(part.format(**places) for part in arguments.split())]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"lsam-jax: error: [^\n]*{words}[^\n]*\n", error)


def test_sgd_comes_first():
    for names in ((), ("layerwise_sam",), ("layerwise_sam", "sgd")):
        assert next(iter(methods.Settings(methods=names).chosen("resnet8"))) == "sgd"
