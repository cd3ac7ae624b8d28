"""Training that trains nothing."""

import json

import pytest

from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.study import reproduce
from lsam_jax.experiments.training.loop import NonFiniteLossError


@pytest.fixture
def trained(monkeypatch, small):
    """Stands in for training: which runs were asked for; finishes them, or raises for some."""
    asked, broken = [], set()

    def train(config, out, *, resume, weights, program):
        name = f"{out.parent.name}/{out.name}"
        asked.append(name)
        assert resume and program is not None and config.seed == int(out.name[4:])
        if name in broken:
            raise NonFiniteLossError("the training loss\nis nan")
        out.mkdir(parents=True, exist_ok=True)
        told = {"config": config.to_json(), "origin": {}}
        (out / "config.json").write_text(json.dumps(told))
        (out / "metrics.jsonl").write_text("{}\n" * config.epochs)

    monkeypatch.setattr(reproduce, "train", train)
    monkeypatch.setattr(reproduce, "build", lambda config, data, weights: object())
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: small)
    return asked, broken
