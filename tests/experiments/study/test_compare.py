"""A comparison of which some runs go wrong."""

import json

import mini
import numpy as np
import pytest

from lsam_jax.experiments.cli.main import FAILED, main
from lsam_jax.experiments.models import registry
from lsam_jax.experiments.study import compare, summary
from lsam_jax.experiments.training.loop import NonFiniteLossError


@pytest.fixture
def configs(programs, monkeypatch):
    monkeypatch.setattr(compare.datasets, "load", lambda *given: None)
    monkeypatch.setattr(
        compare.step, "build", lambda config, *given, **more: programs[config.method]
    )
    return {name: program.config for name, program in programs.items()}


def failing(monkeypatch, *which):
    fit = compare.loop.fit

    def train(config, **given):
        if (config.method, config.seed) in which:
            raise NonFiniteLossError("the loss is nan")
        return fit(config, **given)

    monkeypatch.setattr(compare.loop, "fit", train)


@pytest.mark.slow
def test_a_run_that_goes_wrong_leaves_the_others(configs, monkeypatch, tmp_path):
    failing(monkeypatch, ("sam", 1))
    compare.compare(configs, (0, 1), tmp_path, rounds=4)
    report = json.loads((tmp_path / "compare.json").read_text())
    assert report["failures"] == {"sam, seed 1": "the loss is nan"}
    numbers = {
        name: row["validation_accuracy"]["values"] for name, row in report["methods"].items()
    }
    assert {name: len(values) for name, values in numbers.items()} == {"sgd": 2, "sam": 1}
    assert "their loss was not finite: sam, seed 1." in summary.table(report).caption


@pytest.mark.slow
def test_a_method_without_a_run_is_left_out_but_the_first(configs, monkeypatch, tmp_path):
    failing(monkeypatch, ("sam", 0))
    report = compare.compare(configs, [0], tmp_path, rounds=4)
    assert list(report["methods"]) == ["sgd"]
    failing(monkeypatch, ("sgd", 0))
    with pytest.raises(NonFiniteLossError):
        compare.compare(configs, [0], tmp_path, rounds=4)


@pytest.mark.slow
def test_each_method_is_timed_at_states_of_its_own(configs, monkeypatch, tmp_path):
    failing(monkeypatch, ("sgd", 0))  # so that the first states are those of another
    report = compare.compare(configs, (0, 1), tmp_path, rounds=4)
    values = {name: row["validation_accuracy"]["values"] for name, row in report["methods"].items()}
    assert {name: len(of) for name, of in values.items()} == {"sgd": 1, "sam": 2}


def test_each_method_has_the_backbone_that_the_command_names(monkeypatch, tmp_path):
    mini.install(monkeypatch.setitem)
    stem = {"kernel": np.full((16, 8), 0.25, np.float32), "bias": np.arange(8, dtype=np.float32)}
    np.savez(tmp_path / "stem.npz", **stem)
    frozen = ("stem", lambda file, shapes: {name: np.load(file)[name] for name in shapes})
    partly = registry.Architecture(mini.Mini, frozen=frozen)
    monkeypatch.setitem(registry.ARCHITECTURES, "resnet8", partly)
    build, programs = compare.step.build, []

    def built(*given, **more):
        programs.append(build(*given, **more))
        return programs[-1]

    monkeypatch.setattr(compare.step, "build", built)
    failing(monkeypatch, ("sgd", 0))  # before anything is trained
    command = ["compare", "--methods", "sgd,sam", "--seeds", "1", "--out", str(tmp_path / "out")]
    command += ["--set", f"batch_size={mini.BATCH}", "--weights", str(tmp_path / "stem.npz")]
    assert main(command) == FAILED
    assert [program.config.method for program in programs] == ["sgd", "sam"]
    for program in programs:
        np.testing.assert_equal(program.pretrained, {"stem": stem})
