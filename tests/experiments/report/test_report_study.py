"""What a report finds below a directory, and what it says of runs that are not there."""

import json

import numpy as np
import pytest
from studies import (
    ENVIRONMENT,
    LAYERS,
    SOME,
    config,
    record,
    write_run,
    write_simple,
    write_study,
)

from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.report.figures import sharpness
from lsam_jax.experiments.report.numbers import accuracy
from lsam_jax.experiments.report.numbers import settings as background
from lsam_jax.experiments.report.numbers.study import read_study


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path, SOME, layers=LAYERS, epochs=8, points=4)
    return tmp_path


def troubles(directory):
    return {t.run: (t.kind, t.reason) for t in read_study(directory).troubles}


def test_every_run_that_is_not_there_is_named_with_its_reason(study):
    found = read_study(study)
    assert {t.run: (t.kind, t.reason) for t in found.troubles} == {
        "esam/seed0": ("missing", "there is no such run"),
        "esam/seed1": ("failed", "the loss is not finite after step 42"),
        "esam/seed2": ("missing", "there is no such run"),
        "looksam/seed1": ("unreadable", "line 3 of metrics.jsonl is not a record"),
        "lsam-low/seed2": ("unfinished", "unfinished at epoch 1 of 8"),
    }
    seeds = {name: [run.seed for run in group.runs] for name, group in found.groups.items()}
    assert seeds == {
        "sgd": [0, 1, 2], "sgd-x2": [0, 1, 2], "looksam": [0, 2], "lsam-k4": [0, 1, 2],
        "lsam-low": [0, 1],
    }  # fmt: skip
    assert [spec.name for spec in found.tables] == ["table1", "table3", "table4", "runs1"]
    assert [row.run for row in found.tables[-1].rows] == ["sgd-x2"]  # in no table of the plan


def test_a_run_of_another_configuration_than_the_plans_is_left_out(study):
    settings = json.loads((study / "sgd/seed1/config.json").read_text())
    settings["config"]["weight_decay"] = 0.5
    (study / "sgd/seed1/config.json").write_text(json.dumps(settings))
    kind, reason = troubles(study)["sgd/seed1"]
    assert kind == "left out"
    assert "weight_decay=0.5 there, weight_decay=0.0002 in the plan" in reason
    assert "sgd/seed1" not in [run.name for run in read_study(study).groups["sgd"].runs]


def test_runs_and_plans_of_before_the_methods_had_their_names(study):
    new = {name: group.config for name, group in read_study(study).groups.items()}
    for file in [study / "study.json", *study.rglob("config.json")]:
        written = json.loads(file.read_text())
        holders = written["runs"].values() if "runs" in written else [written]
        for settings in (holder["config"] for holder in holders):
            del settings["format"]
            former = {"layerwise_sam": "lsam", "look_sam": "looksam", "generalized_sam": "gsam"}
            settings["method"] = former.get(settings["method"], settings["method"])
        file.write_text(json.dumps(written))
    assert "left out" not in {kind for kind, _ in troubles(study).values()}
    assert {name: group.config for name, group in read_study(study).groups.items()} == new


@pytest.mark.parametrize(
    ("runs", "known"),
    [
        ({"sgd": {"mean": 1.5}}, ["sgd"]),
        ({"seed0": {"mean": 1.5}}, []),  # of all groups
        ({"sgd": {"ratio": 1.5}, "sam": {"mean": 1.5}}, ["sam"]),  # a median of single steps
    ],
)
def test_measured_costs_are_means_and_their_group_is_sure(runs, known, tmp_path):
    for method in ("sgd", "sam"):
        write_simple(tmp_path / method, method, (0.7,))
    cells = {m: {"label": m, "config": config(m)} for m in ("sgd", "sam")}
    (tmp_path / "study.json").write_text(json.dumps({"runs": cells}))
    told = {name: {"cost": {"low": 1.0, "high": 2.0, **cost}} for name, cost in runs.items()}
    (tmp_path / "costs.json").write_text(json.dumps({"runs": told}))
    found = read_study(tmp_path).costs
    assert found == {name: {"mean": 1.5, "low": 1.0, "high": 2.0} for name in known}


def test_a_failed_run_that_began_says_both(study):
    plan = json.loads((study / "study.json").read_text())
    plan["failures"]["lsam-low/seed2"] = "out of memory"
    plan["failures"]["sgd/seed0"] = "an old failure, since when it was run again"
    (study / "study.json").write_text(json.dumps(plan))
    found = troubles(study)
    assert found["lsam-low/seed2"] == ("failed", "unfinished at epoch 1 of 8; out of memory")
    assert "sgd/seed0" not in found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2 of metrics.jsonl is not a record"),
        ("[1]", "line 2 of metrics.jsonl is not a record"),
        ("{}", "lacks step, train_loss"),
        (json.dumps(record(3)), "line 2 of metrics.jsonl is not of epoch 2"),
        (json.dumps(record(2, layers=("a", "b"))), "has other layers than the first"),
        (json.dumps(record(2, step="many")), "line 2 of metrics.jsonl is not a record"),
        (json.dumps(record(2, layer_norms=[1, 2])), "line 2 of metrics.jsonl is not a record"),
    ],
)
def test_a_damaged_line_makes_one_run_unreadable(line, reason, tmp_path):
    write_simple(tmp_path / "sgd", "sgd", (0.7, 0.8))
    file = tmp_path / "sgd/seed1/metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    found = read_study(tmp_path)
    (trouble,) = found.troubles
    assert (trouble.run, trouble.kind) == ("sgd/seed1", "unreadable")
    assert reason in trouble.reason
    (group,) = found.groups.values()
    assert [run.seed for run in group.runs] == [0]


def test_a_damaged_run_does_not_stop_the_others(tmp_path):
    write_simple(tmp_path, "sgd", (0.7, 0.8, 0.9, 0.9))
    (tmp_path / "seed0/metrics.jsonl").unlink()
    (tmp_path / "seed0/metrics.jsonl").mkdir()
    for seed, change in ((1, {"options": 5}), (2, {"format": "new"})):
        file = tmp_path / f"seed{seed}/config.json"
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({**settings, "config": {**settings["config"], **change}}))
    assert troubles(tmp_path) == {
        "seed0": ("unreadable", "metrics.jsonl cannot be read (Is a directory)"),
        "seed1": ("unreadable", "config.json is not the configuration of a run"),
        "seed2": ("unreadable", "config.json is not the configuration of a run"),
    }
    (group,) = read_study(tmp_path).groups.values()
    assert [run.seed for run in group.runs] == [3]


def test_without_a_plan_runs_are_grouped_by_all_but_the_seed(tmp_path):
    write_simple(tmp_path / "deep" / "er" / "sam", "sam", (0.7, 0.8))
    write_simple(tmp_path / "k2", "layerwise_sam", (0.7,), k=2)
    write_simple(tmp_path / "k4", "layerwise_sam", (0.7,), k=4)
    write_simple(tmp_path / "sgd", "sgd", (0.7, 0.8, 0.9))
    write_simple(tmp_path / "again", "sgd", (0.1,))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text('{"architectures": []}')  # not a run of ours
    write_simple(tmp_path / "k2" / "seed0" / "checkpoints", "asam", (0.7,))  # not a run of its own
    found = read_study(tmp_path)
    assert [g.label for g in found.groups.values()] == [
        "SGD", "SAM", "layer-wise SAM (k=2)", "layer-wise SAM (k=4)",
    ]  # fmt: skip
    assert [len(group.runs) for group in found.groups.values()] == [3, 2, 1, 1]
    (trouble,) = found.troubles
    assert trouble.run == "sgd/seed0"  # the second of the two, in the order of the directories
    assert "same configuration and seed as again/seed0" in trouble.reason
    (table,) = found.tables
    assert [row.label for row in table.rows] == [g.label for g in found.groups.values()]


def test_runs_of_different_recipes_are_in_different_tables(tmp_path):
    write_simple(tmp_path / "sgd", "sgd", (0.7,))
    write_simple(tmp_path / "sam", "sam", (0.8,))
    other = {**config("sam", 4, 0), "batch_size": 16}
    write_run(tmp_path / "other", other, [record(e) for e in range(1, 5)])
    found = read_study(tmp_path)
    assert [len(spec.rows) for spec in found.tables] == [2, 1]
    (line,) = accuracy.lines(found, found.tables[1])
    assert line.base is None  # there is no SGD in batches of 16
    assert "baseline" not in accuracy.accuracy_table(found.tables[1], [line]).rows[0]


def test_a_run_hides_none_below_it(tmp_path):
    write_simple(tmp_path, "sgd", (0.7,))
    place = tmp_path / "seed0"
    write_simple(place, "sam", (0.8, 0.9))
    assert [len(group.runs) for group in read_study(place).groups.values()] == [1, 2]
    assert [len(group.runs) for group in read_study(tmp_path).groups.values()] == [1, 2]


def test_the_directory_of_one_run_will_do(tmp_path):
    write_run(tmp_path / "run", config("sam", 2), [record(1), record(2)])
    (group,) = read_study(tmp_path / "run").groups.values()
    assert group.runs[0].name == "run"


def test_numbers_that_are_not_finite_are_read(tmp_path):
    write_run(tmp_path / "run", config("sam", 1), [record(1, train_loss=None)])
    found = read_study(tmp_path)
    (spec,) = found.tables
    table = accuracy.measures_table(found, accuracy.lines(found, spec))
    assert table.rows[0][2] == "not finite"


def test_damaged_diagnostics_leave_the_run_in_the_tables(study):
    (study / "sgd/seed0/landscapes.npz").write_bytes(b"PK half a file")
    (study / "sgd/seed0/sharpness.json").write_text('{"rho": 0.05}')
    found = read_study(study)
    reasons = [(t.kind, t.reason) for t in found.troubles if t.run == "sgd/seed0"]
    assert reasons == [
        ("partly unreadable", "landscapes.npz cannot be read"),
        (
            "partly unreadable",
            "sharpness.json lacks train_loss, top_eigenvalue, ball, trace, layers",
        ),
    ]
    assert len(found.groups["sgd"].runs) == 3


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ((), {}, "lacks rho, train_loss, top_eigenvalue, ball, trace, layers"),
        (("rho",), "0.05", "lacks rho"),
        (("trace", "mean"), [], "lacks trace.mean"),
        (("layers",), {"head/kernel": 5}, f"lacks {', '.join(f'layers.{x}' for x in LAYERS)}"),
        (("layers", LAYERS[1]), {"top_eigenvalue": 1.0}, f"lacks layers.{LAYERS[1]}.ball_rise"),
        (("rho",), None, None),  # a number that is not finite
        (("layers", "extra"), {}, None),
    ],
)
def test_what_a_measurement_of_sharpness_lacks_is_named(place, value, words, study):
    file = study / "sgd/seed1/sharpness.json"
    *within, last = ("all", *place)
    holder = found = {"all": json.loads(file.read_text())}
    for name in within:
        holder = holder[name]
    holder[last] = value
    file.write_text(json.dumps(found["all"]))
    groups = list(read_study(study).groups.values())
    assert len(sharpness.table(groups).rows) == len(groups)
    assert sharpness.by_layer(groups, "layers").png
    said = troubles(study).get("sgd/seed1")
    assert said == (words and ("partly unreadable", f"sharpness.json {words}"))


def test_landscapes_are_read_as_they_were_written(study):
    around = read_study(study).groups["sgd"].runs[0].landscapes
    assert around.layers == LAYERS
    assert around.loss.shape == (len(LAYERS), 4, 4)
    np.testing.assert_array_equal(around.model_steps, np.linspace(-1, 1, 4))


def test_environments_that_differ_name_their_runs(tmp_path):
    for seed, version in enumerate(("0.10.2", "0.12.0", "0.10.2")):
        settings, environment = config("sgd", 1, seed), {**ENVIRONMENT, "jax": version}
        write_run(tmp_path / f"seed{seed}", settings, [record(1)], environment)
    (group,) = read_study(tmp_path).groups.values()
    rows = dict(background.environments(group.runs).rows)
    assert rows["jax"] == "0.10.2 (seed0 and seed2); 0.12.0 (seed1)"
    assert rows["python"] == "3.11.7"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "'{place}' is not a directory; give one that holds runs"),
        ({}, "'{place}' holds no run of lsam-jax; give a directory with runs below it"),
        ({"study.json": "{"}, "study.json' cannot be read .*; make it again, or move it away"),
        ({"study.json": '{"runs": {"a": 1}}'}, "study.json' is not the plan of a study"),
        ({"costs.json": "[]", "study.json": '{"runs": {}}'}, "costs.json' cannot be read"),
        ({"distances.json": '{"runs": ["a"]}', "study.json": '{"runs": {}}'}, "for each run"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(files, words, tmp_path, capsys):
    place = tmp_path / "study"
    if files is not None:
        place.mkdir()
        for name, content in files.items():
            (place / name).write_text(content)
    with pytest.raises(ValueError, match=words.format(place=place)):
        read_study(place)
    assert main(["report", str(place)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (place / "report.html").exists()
