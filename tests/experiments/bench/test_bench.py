"""``lsam-jax bench``: small networks, once around, through the command line."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import lsam_jax as lsam
from lsam_jax.experiments.bench import (
    by_hand,
    compile_time,
    methods,
    recorded,
    scaling,
    selections,
    timed,
)
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.config import presets
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data import datasets
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
    some = ["sl_sam", "esam", "functional_sam"]
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


@pytest.mark.slow
def test_scaling(tmp_path):
    report = bench(tmp_path, "scaling", "k", "--model", "tiny", *SIZE, "--values", "1,5",
                   "--rounds", "1")  # fmt: skip
    assert list(report["rows"]) == ["k 1", "k 5"]
    one, every = (row["steps"] for row in report["rows"].values())
    last, first = "layer-wise SAM, last layers", "layer-wise SAM, first layers"
    for count in ("counted", "modelled"):
        assert one[last][count] < one[first][count] < every[first][count]
        assert every[last][count] == every[first][count]  # all five are perturbed
    assert every[last]["counted"] == pytest.approx(2, abs=0.1)
    assert report["programs"]["k 1: SGD"] == report["programs"]["k 5: SGD"]  # compiled once


@pytest.mark.slow
@pytest.mark.parametrize("name", by_hand.STEPS)
def test_steps_by_hand_are_those_of_the_methods(name):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 4), "bias": (4,)}
    params = [{n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()} for _ in range(2)]
    batch = jnp.asarray(rng.normal(size=(8, 4)))
    loss = lsam.split_loss(lambda p, x: jnp.tanh(x @ p[0]["kernel"] + p[0]["bias"]) @ p[1]["kernel"]
                           + p[1]["bias"], lambda out, x: jnp.mean(out**2))  # fmt: skip
    tx = compile_time.methods()[name]
    want = by_hand.STEPS[name](loss, params, batch)
    value, direction, _ = lsam.value_and_grad(loss, tx)(params, tx.init(params), batch)
    for a, b in zip(jax.tree.leaves((value, direction)), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_compile(tmp_path, capsys):
    report = bench(tmp_path, "compile", "--layers", "2", "--rounds", "1")
    printed = capsys.readouterr().out
    rows = report["rows"]
    assert list(rows)[:2] == ["plain gradient", "sam by hand"]
    assert rows["sam by hand"]["compile"] == rows["sam by hand"]["trace"] == 1
    for name, row in rows.items():
        assert name in printed
        seconds = rows["sam by hand"]["compile_seconds"] * row["compile"]
        assert row["compile_seconds"] == pytest.approx(seconds) and seconds > 0
        own = rows.get(f"{name} by hand")
        assert (own is None) == (row["own"] is None)
        assert own is None or row["own"] == pytest.approx(row["compile"] / own["compile"])
    assert main(["bench", "compile", "--layers", "0"]) == 2
    assert "layers=0 must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("along", "value", "kernels", "batch"),
    [("depth", 14, 17, 128), ("width", 8, 23, 128), ("batch", 5, 23, 5), ("k", 2, 23, 128)],
)
def test_what_is_scaled(along, value, kernels, batch):
    settings = scaling.Settings(along=along, values=(value,))
    module = registry.preset("resnet20")(**settings.options(value))
    assert 3 + 1 + 1 + 2 * sum(module.stages) == kernels  # shortcuts, stem, head, blocks
    assert module.width == (8 if along == "width" else 16)
    assert settings.size(value).batch_size == batch
    assert settings.of(value) == (2 if along == "k" else 4)


@pytest.fixture
def run(small, tmp_path, monkeypatch):
    """A run of two epochs."""
    monkeypatch.setitem(datasets.LOADERS, "digits", lambda data_dir: small)
    out = tmp_path / "lsam"
    arguments = ["--epochs", "2", "--set", "width=4", "--set", "batch_size=32", "--set", "rho=2.0",
                 "--set", "cuts=1", "--log", "json"]  # fmt: skip
    assert main(["train", "digits-resnet8", *arguments, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_the_layers_of_a_run(run, tmp_path, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    found = recorded.read(run)
    assert (found.step, found.image_size, found.channels, found.num_classes) == (8, 8, 1, 10)
    work = recorded.network(found)
    assert work.args[2].shape == (32, 8, 8, 1)
    names = lsam.layer_names(work.params)
    now, before = (epochs[i]["perturbations"] for i in (1, 0))
    counts = dict(zip(names, found.selected.sum(axis=0).tolist()))
    assert counts == {name: now[name] - before[name] for name in now}

    report = bench(tmp_path, "recorded", str(run), "--rounds", "1", "--sets", "3")
    mean, rows = report["mean"], list(report["rows"].values())
    assert mean["counted_all_steps"] == pytest.approx(epochs[1]["cost"], rel=2e-3)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    for name, of_row in (("measured", "ratio"), ("counted", "counted"), ("modelled", "modelled")):
        want = sum(row["share"] * row[of_row] for row in rows)
        assert mean[name] == pytest.approx(want)
    assert all(len(row["layers"]) == 2 for row in rows)
    assert report["settings"]["run"] == "lsam"  # no path
    assert "of its 4 steps before step 8" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_says_nothing_is_refused(tmp_path, monkeypatch, capsys):
    config = presets.preset("digits-resnet8").configure("momentum_sam").to_json()
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "origin": {}}))
    assert main(["bench", "recorded", str(tmp_path)]) == 2
    assert "is a run of method 'momentum_sam'; give one of layerwise_sam" in capsys.readouterr().err
    uneven = np.eye(3, dtype=bool) | np.array([True, False, False])
    found = recorded.Recorded(Config(), 3, uneven, 1, 8, 10)
    monkeypatch.setattr(recorded, "read", lambda *_: found)
    assert main(["bench", "recorded", str(tmp_path)]) == 2
    assert "perturbed 1, 2 layers in a step; give a run" in capsys.readouterr().err


def test_steps_are_taken_as_often_as_the_run_took_them():
    costs = np.repeat([1.3, 1.0, 1.6], [30, 60, 10])
    taken = costs[recorded.spread(costs, 10)]
    np.testing.assert_array_equal(taken, np.repeat([1.0, 1.3, 1.6], [6, 3, 1]))
    assert sorted(recorded.spread(costs, 1000)) == list(range(100))
    assert recorded.spread(np.arange(5.0), 1).tolist() == [2]  # the median


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["high", "low", "random"])
def test_any_selection_of_a_run_can_be_forced(selection, layerwise):
    config = layerwise.config
    options = {**dict(config.options), "selection": selection}
    tx = recorded.transformation(type(config)(**{**vars(config), "options": options}), 2)
    params = {name: jnp.ones((2, 2)) for name in "abc"}
    state = tx.init(params)._replace(norms=jnp.array([1.0, 0.0, 1.0]))
    _, after = tx.update(params, state, params, grad_fn=lambda p: p)
    assert after.selected.tolist() == [True, False, True]
    assert tx.method.alpha == 0.8


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
        ("scaling height", "along='height' must be one of depth, width, batch, k"),
        ("scaling depth --values 8,15", r"depth=15 must be 6 n \+ 2"),
        ("scaling depth --values 8,8", "must be different"),
        ("scaling k --values 1,x", "--values=1,x must be whole numbers"),
        ("scaling k --values 24", "k=24 is more than the 23 layers"),
        ("scaling depth --values 8 --k 12", "k=12 is more than the 11 layers"),
        ("scaling batch --values 1", "batch=1 is too small"),
        ("scaling depth --model vit_b16", "model='vit_b16' has no stages"),
        ("recorded {directory}", "holds no run"),
        ("recorded {directory} --sets 0", "sets=0 must be at least 1"),
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
