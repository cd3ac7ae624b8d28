"""A comparison of which some runs go wrong."""

import json

import pytest

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
