"""What is measured of a study's runs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from lsam_jax.experiments import files, tables
from lsam_jax.experiments import report as report_package
from lsam_jax.experiments.bench import training_steps
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.config.presets import preset
from lsam_jax.experiments.study import measure as reproduce_measures
from lsam_jax.experiments.study import reproduce
from lsam_jax.experiments.study.diagnose import sharpness_table
from lsam_jax.experiments.study.measure import measure
from lsam_jax.experiments.study.reproduce import plan

CIFAR, DIGITS = preset("cifar10-resnet20"), preset("digits-resnet8")
SMALL = {"width": 4, "epochs": 1, "images": 64, "validation_images": 32, "batch_size": 32}


def test_only_runs_that_are_there_are_measured(trained, monkeypatch, tmp_path):
    _, broken = trained
    broken.add("gsam/seed1")
    names = ["table1", "figure6"]
    study = plan(names, DIGITS, "paper", 2, SMALL)
    reproduce.reproduce(study, tmp_path)
    asked = []

    def note(kind):
        def measured(runs, *arguments, **options):
            asked.append((kind, sorted(f"{run.parent.name}/{run.name}" for run in runs), options))

        return measured

    monkeypatch.setattr(reproduce_measures, "diagnose", note("diagnose"))
    monkeypatch.setattr(reproduce_measures, "costs_of_runs", note("costs"))
    measure(study, tmp_path)
    (_, drawn, options), (_, sharp, _), (_, timed, _) = asked  # the larger set's distances stay
    assert sharp == [
        "gsam/seed0", "lsam/seed0", "lsam/seed1", "sam/seed0", "sam/seed1", "sgd/seed0", "sgd/seed1"
    ]  # fmt: skip
    assert drawn == ["lsam/seed0"]
    assert options["with_landscapes"]
    assert "sgd-x2/seed0" in timed
    assert all(name.endswith("seed0") for name in timed)
    names = {name.split("/")[0] for name in timed}
    for known, again in [(names, False), ({"sgd", "lsam-k8"}, True)]:
        asked.clear()
        told = {"runs": {c: {"config": {"seed": 0}, "cost": {"mean": 1.0}} for c in known}}
        (tmp_path / files.COSTS).write_text(json.dumps(told))
        measure(study, tmp_path)
        measured = [runs for kind, runs, _ in asked if kind == "costs"]
        assert bool(measured) == again
    (all_of_them,) = measured  # nothing that was there is lost
    assert set(all_of_them) == {*timed, "lsam-k8/seed0"}


def test_what_cannot_be_measured_leaves_the_rest_and_the_report(
    trained, monkeypatch, tmp_path, capsys
):
    asked = []

    def fail(kind):
        def measured(runs, *rest, **options):
            asked.append(kind)
            raise ValueError(f"no {kind}")

        return measured

    monkeypatch.setattr(reproduce_measures, "diagnose", fail("sharpness"))
    monkeypatch.setattr(reproduce_measures, "costs_of_runs", fail("costs"))
    reported = []
    monkeypatch.setattr(
        report_package, "report", lambda out: reported.append(out) or SimpleNamespace(html="x")
    )
    command = ["reproduce", "table1", "figure6", "--preset", "digits-resnet8", "--scale", "paper"]
    assert main([*command, "--seeds", "1", "--out", str(tmp_path)]) == 1
    assert asked == ["sharpness", "sharpness", "costs"]
    assert reported == [str(tmp_path)]
    said = capsys.readouterr().err
    assert "error: landscapes not measured: no sharpness; sharpness not measured: no sharp" in said


def test_runs_on_a_frozen_backbone_are_timed_with_its_weights(trained, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(reproduce_measures, "diagnose", lambda *given, **options: 1 / 0)
    monkeypatch.setattr(
        reproduce_measures, "costs_of_runs", lambda runs, *rest, **options: asked.append(options)
    )
    study = plan(["table1"], preset("cifar100-vit-b16-head"), "paper", 1)
    reproduce.reproduce(study, tmp_path, weights="vit.npz")
    assert measure(study, tmp_path, weights="vit.npz") == {}
    assert [one["weights"] for one in asked] == ["vit.npz"]


def test_costs_are_named_by_cells_also_where_one_alone_is_there(trained, monkeypatch, tmp_path):
    _, broken = trained
    study = plan(["table2"], DIGITS, "paper", 1, SMALL)
    broken |= {f"{cell}/seed0" for cell in study.configs if cell != "sgd"}
    named = []
    monkeypatch.setattr(
        reproduce_measures,
        "costs_of_runs",
        lambda runs, *rest, names, **options: named.append(names),
    )
    reproduce.reproduce(study, tmp_path)
    measure(study, tmp_path)
    assert named == [["sgd"]]


def test_costs_are_relative_to_sgd(trained, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(
        reproduce_measures, "costs_of_runs", lambda runs, *rest, **options: given.append(runs)
    )
    study = plan(["table3"], CIFAR, "cpu", 1)
    assert next(iter(study.configs)) == "lsam"
    reproduce.reproduce(study, tmp_path)
    measure(study, tmp_path)
    assert given[0][0].parent.name == "sgd"


@pytest.mark.parametrize("written", ["garbage", '{"a": 1}', '{"runs": {"sgd": 1}}'])
def test_a_damaged_file_of_costs_is_named(written, trained, tmp_path):
    (tmp_path / "costs.json").write_text(written)
    with pytest.raises(ValueError, match=f"'{tmp_path}/costs.json' .*make it again, or move it"):
        measure(plan(["table2"], DIGITS, "paper", 1, SMALL), tmp_path)


def test_costs_are_named_by_what_tells_runs_apart():
    assert training_steps._names([Path("s/sgd/seed0"), Path("s/lsam/seed0")]) == ("sgd", "lsam")
    assert training_steps._names([Path("s/sgd/seed0"), Path("s/sgd/seed1")]) == ("seed0", "seed1")
    crossed = [Path("a/x/0"), Path("a/y/0"), Path("a/x/1")]
    assert training_steps._names(crossed) == ("a/x/0", "a/y/0", "a/x/1")


def test_what_was_not_finite_is_a_nan_of_the_table(capsys):
    sharp = {
        "loss": "cross-entropy",
        "images": 8,
        "rho": 0.05,
        "train_loss": 1.25,
        "ball": {"rise": None},
        "top_eigenvalue": None,
        "trace": {"mean": None, "standard_error": 0.5},
    }
    tables.show(sharpness_table({"sgd": sharp}))
    assert capsys.readouterr().out.split("\n")[2].split() == (
        ["sgd", "1.2500", "nan", "nan", "nan", "±", "0.5"]
    )
