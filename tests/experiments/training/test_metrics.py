"""Which sinks a run has, and what they call its numbers."""

import doctest
import importlib.util
import sys
import types

import pytest
from epochs import NUMBERS, record, timing

from lsam_jax.experiments.training import loggers
from lsam_jax.experiments.training.loggers import JsonLines, TensorBoard, WandB, scalars


def test_scalars_are_named_after_what_they_measure():
    assert scalars(record(1), timing(1)) == {
        "epoch": 1,
        "train_loss": NUMBERS[1],
        "sharpness": 0.5,
        "gradient_norm": 2.5,
        "cost": 1.25,
        "norms/stem/kernel": 0.25,
        "norms/head/kernel": NUMBERS[1],
        "perturbations/stem/kernel": 0,
        "perturbations/head/kernel": 390,
        "timing/seconds": 7.5,
        "timing/images_per_second": 100.0,
    }
    gaps = scalars(record(3), {"host_share": None})
    assert {"cost", "timing/host_share"}.isdisjoint(gaps)
    assert "sharpness" in gaps


def test_the_example():
    assert doctest.testmod(loggers) == (0, 1)


def test_json_is_always_there(tmp_path):
    for names in ((), ("json",), ["json", "json"]):
        opened = loggers.open_sinks(names, tmp_path, {}, "x")
        assert [type(sink) for sink in opened] == [JsonLines]
    assert not any(tmp_path.iterdir())


def test_tensorboard_is_there_by_itself_and_wandb_never(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    found = {"tensorboardX": object(), "wandb": object()}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(RecordWriter=None))
    for name in ("proto", "proto.event_pb2", "proto.summary_pb2"):
        monkeypatch.setitem(sys.modules, f"tensorboardX.{name}", types.ModuleType(name))
    opened = loggers.open_sinks(None, str(tmp_path), {}, "x")
    assert [type(sink) for sink in opened] == [JsonLines, TensorBoard]
    del found["tensorboardX"]
    opened = loggers.open_sinks(None, str(tmp_path), {}, "x")
    assert [type(sink) for sink in opened] == [JsonLines]
    opened = loggers.open_sinks(loggers.SINKS, tmp_path, {}, "x")
    assert [type(sink) for sink in opened] == [JsonLines, TensorBoard, WandB]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as error:
        loggers.open_sinks([name], tmp_path, {}, "x")
    assert error.value.name == package


def test_an_unknown_sink_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sink 'csv' is not known; choose from json, tensorboard"):
        loggers.open_sinks(["json", "csv"], tmp_path, {}, "x")
