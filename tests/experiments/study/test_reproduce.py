"""What tables are made of, and that what is missing of them is run, and nothing else."""

import dataclasses
import json

import numpy as np
import pytest

from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.config import overrides
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.presets import PRESETS, preset
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.study import reproduce
from lsam_jax.experiments.study.cells import CELLS, SCALES, changes
from lsam_jax.experiments.study.paper_tables import NAMES, artefact
from lsam_jax.experiments.study.reproduce import plan
from lsam_jax.experiments.training.run_directory import configuration
from lsam_jax.experiments.training.step import build

CIFAR, DIGITS = preset("cifar10-resnet20"), preset("digits-resnet8")
SMALL = {"width": 4, "epochs": 1, "images": 64, "validation_images": 32, "batch_size": 32}


def options(study, cell):
    return dict(study.configs[cell].options)


def test_the_tables_differ_in_what_they_compare_alone():
    study = plan(["table1", "table3", "table4"], CIFAR, "cpu", 3)
    assert {c.method for c in study.configs.values()} == {
        "sgd", "sam", "generalized_sam", "look_sam", "layerwise_sam", "momentum_sam", "esam"
    }  # fmt: skip
    selections = {row.label: options(study, row.run).get("selection") for row in
                  study.artefacts["table3"].rows if row.run != "sgd"}  # fmt: skip
    assert selections == {"high norm": None, "random": "random", "low norm": "low"}
    fourth = {row.label: row.run for row in study.artefacts["table4"].rows}
    for k in (1, 2, 4, 8):
        assert options(study, fourth[f"k={k}"])["k"] == k
    assert fourth["k=4"] == "lsam"  # of Table 1, and run once
    assert study.configs["sgd-x2"].epochs == 2 * study.configs["sgd"].epochs
    assert options(study, "lsam-budget10")["budget"] == 0.1
    assert options(study, "lsam-budget25")["budget"] == 0.25
    recipe = {
        name: {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(Config)
            if field.name not in ("method", "options", "epochs")
        }
        for name, config in study.configs.items()
    }
    assert all(one == recipe["sgd"] for one in recipe.values())
    first, *_, last = study.runs()
    assert first == ("sgd", 0)
    assert last[1] == 2
    assert len(study.runs()) == 3 * len(study.configs)


def test_the_grid_holds_all_that_it_says():
    study = plan(["grid"], CIFAR, "paper", 1)
    seen = {
        (o["normalize"], o["rho"], o["alpha"])
        for name in study.configs
        if "normalize" in (o := options(study, name))
    }
    assert len(seen) == len(study.configs) - 2
    assert {(True, 0.1, 1.0), (False, 0.5, 0.8)} <= seen


@pytest.mark.parametrize(
    ("name", "label", "shared"),
    [
        ("cifar10-resnet20", "the paper's: rho=0.1, alpha=0.8, not normalised", "All with k=4."),
        (
            "noisy-digits-resnet8",
            "the preset's: rho=1.4, alpha=1, normalised",
            "All with k=4, ascent_batch=0.0625.",
        ),
    ],
)
def test_the_grid_says_what_its_centre_is(name, label, shared):
    grid = artefact("grid", preset(name))
    assert grid.rows[1].label == label
    assert grid.caption.endswith(shared)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("table3", "table4")])
@pytest.mark.parametrize("benchmark", PRESETS)
def test_every_benchmark_has_the_figures(name, benchmark):
    shown = artefact(name, preset(benchmark))
    assert shown.title
    for row in shown.rows:
        assert CELLS[row.run].configure(preset(benchmark), {}).seed == 0


def test_numbers_of_the_paper_stand_beside_the_right_rows():
    rows = {row.label: row.published for row in artefact("table3", CIFAR).rows}
    assert (rows["low norm"]["accuracy"], rows["random"]["std"]) == (91.40, 0.2)
    rows = {row.label: row.published for row in artefact("table4", CIFAR).rows}
    assert rows["k=8"]["throughput"] == 564.5
    assert rows["k=0 (SGD)"] == {}
    assert artefact("table1", preset("flowers102-wrn16-2")).rows[3].published["accuracy"] == 75.56


def test_a_scale_says_all_that_it_changes():
    config = CELLS["sgd"].configure(CIFAR, SCALES["cpu"])
    said = "; ".join(changes(CIFAR, config))
    for part in ("1,280 of the 50,000", "first 5,000", "no augmentation", "30 passes", "of 150",
                 "of an image: 16", "batch: 64 instead of 128"):  # fmt: skip
        assert part in said
    assert not changes(CIFAR, CIFAR.config)
    slower = dataclasses.replace(CIFAR.config, learning_rate=0.05)
    assert changes(CIFAR, slower) == ["learning_rate: 0.05 instead of 0.1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["table5"], CIFAR, "cpu", 1), "table5.*table1, table2"),
        ((["table3"], DIGITS, "cpu", 1), "no table3 for preset 'digits-resnet8'.*cifar10"),
        ((["table1"], CIFAR, "gpu", 1), "scale='gpu'.*paper, cpu"),
        ((["table1"], CIFAR, "cpu", 0), "seeds=0.*at least 1"),
        ((["table1"], preset("cifar100-vit-b16-head"), "cpu", 1), "pretrained.*--scale paper"),
        ((["table1"], CIFAR, "cpu", 1, {"epochs": 0}), "epochs=0"),
        (
            (["table1"], DIGITS, "cpu", 3),
            "scale='cpu' has no digits-resnet8: images=1280 is above the 1200 of digits; choose "
            "--scale paper or another preset",
        ),
        ((["table1"], DIGITS, "cpu", 3, {"images": 9, "validation_images": 9}), "image_size=16 ne"),
        ((["table1"], preset("flowers102-wrn16-2"), "cpu", 3), "validation_images=5000 .* 2040"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_runs(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan(*arguments)


def test_only_what_is_missing_is_run_and_a_failure_leaves_the_others(trained, tmp_path):
    asked, broken = trained
    broken.add("lsam/seed0")
    study = plan(["figure1", "figure6"], DIGITS, "paper", 2, SMALL)
    failures = reproduce.reproduce(study, tmp_path)
    assert asked == ["sgd/seed0", "lsam/seed0", "sgd/seed1", "lsam/seed1"]
    assert failures == {"lsam/seed0": "the training loss is nan"}
    told = json.loads((tmp_path / "study.json").read_text())
    assert told["failures"] == failures
    assert told["scale"]["says"][0] == "64 of the 1,200 training images"
    assert told["name"] == ["figure1", "figure6"]
    assert told["tables"] == []
    assert told["command"].startswith(
        "lsam-jax reproduce figure1 figure6 --preset digits-resnet8 --scale paper --seeds 2 --set"
    )
    assert "--set images=64" in told["command"]

    asked.clear()
    broken.clear()
    (tmp_path / "sgd/seed1/metrics.jsonl").write_text("")  # stopped within its only epoch
    assert not reproduce.reproduce(study, tmp_path)
    assert asked == ["lsam/seed0", "sgd/seed1"]
    assert json.loads((tmp_path / "study.json").read_text())["failures"] == {}

    asked.clear()
    more = plan(["table1"], DIGITS, "paper", 1, SMALL)
    reproduce.reproduce(more, tmp_path)
    assert "gsam/seed0" in asked
    assert "sgd/seed0" not in asked
    told = json.loads((tmp_path / "study.json").read_text())
    assert told["name"] == ["table1", "figure1", "figure6"]
    assert [one["name"] for one in told["tables"]] == ["table1"]
    assert told["seeds"] == [0, 1]
    assert Config.from_json(told["runs"]["lsam"]["config"]) == configuration(
        tmp_path / "lsam/seed0"
    )


def test_the_data_are_those_of_the_configurations(trained, monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: loaded.append(name))
    reproduce.reproduce(plan(["figure1"], CIFAR, "cpu", 1, {"data": "cifar100"}), tmp_path)
    assert loaded == ["cifar100"]


def test_a_program_is_built_on_the_data_of_its_configuration(small):
    with pytest.raises(ValueError, match="data is digits, but data='cifar10' is configured"):
        build(Config(data="cifar10"), small)


def test_a_run_without_its_last_checkpoint_goes_on(trained, tmp_path):
    asked, _ = trained
    study = plan(["figure1"], DIGITS, "paper", 1, SMALL)
    reproduce.reproduce(study, tmp_path)
    run = tmp_path / "sgd/seed0"
    for steps, goes_on in (((), True), (("1",), True), (("1", "2"), False)):
        asked.clear()
        (run / "metrics.jsonl").write_text('{"step": 2}\n')
        (run / "checkpoints").mkdir(exist_ok=True)
        for step in steps:
            (run / "checkpoints" / step).mkdir(exist_ok=True)
        reproduce.reproduce(study, tmp_path)
        assert bool(asked) == goes_on


def test_the_command_that_is_told_can_be_given_again(trained, tmp_path):
    settings = {**SMALL, "decay_at": (0.5, 0.75), "clip_norm": None, "augment": False}
    reproduce.reproduce(plan(["figure1"], DIGITS, "paper", 1, settings), tmp_path)
    told = json.loads((tmp_path / "study.json").read_text())["command"]
    assert overrides.parse(told.split(" --set ")[1:]) == settings


def test_runs_of_another_configuration_are_not_mixed_in(trained, tmp_path):
    asked, _ = trained
    reproduce.reproduce(plan(["figure1"], DIGITS, "paper", 1, SMALL), tmp_path)
    other = plan(["figure1"], DIGITS, "paper", 1, {**SMALL, "weight_decay": 0.5})
    with pytest.raises(ValueError, match=r"weight_decay=0.0002 there, weight_decay=0.5 now.*--out"):
        reproduce.reproduce(other, tmp_path)
    assert asked == ["sgd/seed0"]


@pytest.mark.parametrize("written", ["garbage", '{"runs": 5}', '{"tables": [{}]}'])
def test_a_damaged_plan_is_named_before_anything_runs(written, trained, tmp_path):
    asked, _ = trained
    (tmp_path / "study.json").write_text(written)
    with pytest.raises(ValueError, match=f"'{tmp_path}/study.json' .*make it again, or move it"):
        reproduce.reproduce(plan(["figure1"], DIGITS, "paper", 1, SMALL), tmp_path)
    assert not asked


@pytest.mark.slow
def test_the_command_runs_one_for_real(tmp_path, capsys):
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    command = ["reproduce", "figure1", "--preset", "digits-resnet8", "--scale", "paper",
               "--seeds", "2", "--set", "passes=2", "--data-dir", str(tmp_path / "data"),
               "--out", str(tmp_path / "study"), "--runs-only", *settings]  # fmt: skip
    assert main(command) == 0
    for seed in (0, 1):
        run = tmp_path / f"study/sgd/seed{seed}"
        (record,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        assert record["step"] == 4  # two passes over two batches
        assert configuration(run).seed == seed
    capsys.readouterr()
    assert main([part for part in command if part != "--runs-only"]) == 0
    out, err = capsys.readouterr()
    assert "[1/" not in err  # nothing is run again
    assert str(tmp_path / "study/report.html") in out
    assert "SGD" in (tmp_path / "study/report.md").read_text()


def test_a_failed_run_is_the_commands_status(trained, tmp_path, capsys):
    _, broken = trained
    broken.add("sgd/seed0")
    command = ["reproduce", "figure1", "--preset", "digits-resnet8", "--scale", "paper"]
    command += ["--seeds", "2", "--out", str(tmp_path), "--runs-only"]
    assert main(command) == 1
    assert "1 of the runs failed: sgd/seed0" in capsys.readouterr().err
    broken.clear()
    assert main(command) == 0


def test_limited_data(small):
    fewer = datasets.limited(small, 10, 7)
    np.testing.assert_array_equal(fewer.train.images, small.train.images[:10])
    np.testing.assert_array_equal(fewer.train.labels, small.train.labels[:10])
    np.testing.assert_array_equal(fewer.validation.labels, small.validation.labels[:7])
    assert fewer.augment is small.augment
    colours = datasets.Split(np.full((3, 8, 8, 3), 200, np.uint8), np.arange(3))
    scaled = datasets.limited(small._replace(train=colours, validation=colours), size=4)
    np.testing.assert_array_equal(scaled.train.images, np.full((3, 4, 4, 3), 200))
    shown = small._replace(augment=lambda images, key: images)
    assert datasets.limited(shown).augment is shown.augment
    assert datasets.limited(shown, augment=False).augment is None
    for arguments, words in [
        ({"images": 10**6}, "images=1000000 must lie between 1 and the .* training"),
        ({"validation_images": 10**6}, "validation_images=1000000 .* validation"),
        ({"size": 4}, "image_size=4 needs images of three channels"),
    ]:
        with pytest.raises(ValueError, match=words):
            datasets.limited(small, **arguments)


def test_a_program_is_built_on_what_the_configuration_leaves():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    split = datasets.Split(images, np.arange(40, dtype=np.int32) % 4)
    whole = datasets.Dataset(
        "digits", split, split, 4, datasets.standardise, lambda images, key: images
    )
    config = Config(width=4, epochs=1, batch_size=8, options={"k": 1})
    limits = {"images": 24, "validation_images": 10, "image_size": 4, "passes": 2}
    moves = dataclasses.replace(config, crop=3, **limits)
    assert build(moves, whole).data.augment.keywords == {"pad": 3}
    program = build(dataclasses.replace(config, augment=False, **limits), whole)
    assert program.data.train.images.shape == (24, 4, 4, 3)
    assert program.data.validation.images.shape == (10, 4, 4, 3)
    assert program.data.augment is None
    assert program.steps_per_epoch == 6
    unlimited = build(config, whole)
    assert unlimited.data.train.images.shape == (40, 8, 8, 3)
    assert unlimited.steps_per_epoch == 5
