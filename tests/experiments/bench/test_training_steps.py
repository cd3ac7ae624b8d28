"""What steps of real runs cost."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from lsam_jax.experiments.bench import timing, training_steps
from lsam_jax.experiments.bench.training_steps import StepTimes
from lsam_jax.experiments.config.config import Config

NOW = [0.0]


class Stub:
    """A program whose step perturbs every so often, and then takes twice the time."""

    steps_per_epoch = 4

    def __init__(self, every):
        self.every = every

    def batches(self, seed):
        return range(self.steps_per_epoch)

    def step(self, state, batch):
        perturbs = state.count % self.every == 0
        NOW[0] += 1.0 + perturbs
        sam = SimpleNamespace(selected=np.array([perturbs]))
        return SimpleNamespace(count=state.count + 1, sam=sam), None


@pytest.fixture
def times(monkeypatch):
    monkeypatch.setattr(timing, "interleaved", partial(timing.interleaved, clock=lambda: NOW[0]))
    monkeypatch.setattr(training_steps.timing.jax, "block_until_ready", lambda x: x)
    programs = Stub(10**6), Stub(3)
    return training_steps.time_steps(programs, [SimpleNamespace(count=3)] * 2, rounds=6)


def test_a_method_that_perturbs_now_and_then_costs_the_mean(times):
    costs = times.costs(("sgd", "look"))
    assert (costs["look"].mean, costs["look"].kinds) == (pytest.approx(4 / 3), 2)
    assert costs["look"].ratio == 1.0  # most steps are plain, so the median says nothing
    assert costs["sgd"].mean == 1.0


def test_measurements_of_the_same_runs_are_joined(times):
    slow = times._replace(seconds=times.seconds * 3)
    both = StepTimes.joined([times, slow])
    assert both.seconds.shape == (12, 2)
    assert [rows.shape for rows in both.selected] == [(12, 1)] * 2
    assert both.costs(("sgd", "look"))["look"].mean == pytest.approx(4 / 3)


def test_runs_on_images_of_another_size_are_refused(tmp_path):
    for size in (None, 16):
        config = Config(method="sgd", data="cifar10", image_size=size)
        (tmp_path / f"{size}").mkdir()
        told = {"config": config.to_json(), "origin": {}}
        (tmp_path / f"{size}" / "config.json").write_text(json.dumps(told))
    words = (
        r"16' trains on data=cifar10, batch_size=64, image_size=16, but '.*None' on data=cifar10"
    )
    with pytest.raises(ValueError, match=words):
        training_steps.costs_of_runs([tmp_path / "None", tmp_path / "16"])


def test_runs_are_built_with_the_weights_that_are_given(tmp_path, monkeypatch):
    told = {"config": Config(method="sgd").to_json(), "origin": {}}
    (tmp_path / "config.json").write_text(json.dumps(told))

    def build(config, data, weights):
        raise LookupError(weights)

    monkeypatch.setattr(training_steps, "build", build)
    with pytest.raises(LookupError, match=r"vit\.npz"):
        training_steps.costs_of_runs([tmp_path], weights="vit.npz")


@pytest.mark.parametrize(("options", "says"), [({}, False), ({"perturb_from": 0.8}, True)])
def test_the_table_shows_the_mean(times, options, says):
    costs = times.costs(("sgd", "look"))
    runs = {
        name: {"config": {"method": name, "options": options}, "from_step": 3,
               "cost": cost._asdict()}
        for name, cost in costs.items()
    }  # fmt: skip
    table = training_steps.costs_table({"runs": runs, "rounds": 6})
    assert list(table.columns[-1].cells) == ["1.00 (1.00-1.00)", "1.33 (1.00-1.75)"]
    assert ("With perturb_from" in table.caption) == says
