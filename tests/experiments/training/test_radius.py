"""A radius that sets itself in training: its options, what is recorded, and the warnings."""

import dataclasses
import io
import re

import numpy as np
import pytest
from matplotlib.image import imread
from tiny import TINY

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.methods import method
from lsam_jax.experiments.report.figures import curves
from lsam_jax.experiments.report.numbers.groups import Group
from lsam_jax.experiments.report.numbers.read_run import RecordedRun
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.train import train


@pytest.mark.parametrize("name", ["sam", "layerwise_sam", "stale", "asam", "momentum_sam"])
def test_takes_the_place_of_rho(name):
    more = {"k": 1} if name == "layerwise_sam" else {}
    config = Config(method=name, options={"rise_share": 0.4, **more})
    assert "rho" not in dict(config.options)
    assert config == Config(method=name, options=dict(config.options))
    chosen = method(name, dict(config.options))
    state = chosen.init({"a": {"kernel": np.ones((2, 2), np.float32)}})
    assert float(state.memory.radius.rho) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rise": 0.1, "rho": 0.2}, "rho=0.2 is a radius.*give one or the other"),
        ({"rise": 0.1, "rise_share": 0.4}, "target=0.1 and share=0.4"),
        ({"rise": -1.0}, "target.*above 0"),
        ({"rise_cap": 0.2}, "target=None and share=None"),
    ],
)
def test_options_that_make_no_sense_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Config(method="sam", options=options)
    with pytest.raises(ValueError, match="not an option of method 'sgd'"):
        Config(method="sgd", options={"rise": 0.1})


@pytest.mark.slow
def test_records_radius_and_rise_of_every_step(small):
    config = dataclasses.replace(TINY, method="sam", options={"rise": 0.05}, epochs=2)
    result = fit(config, small)
    history, state = result.history, result.state.sam
    seen = np.asarray(result.state.record.rho), np.asarray(result.state.record.rise)
    assert len(set(seen[0].tolist())) == len(seen[0])  # it moves
    assert history.rho[-1] == pytest.approx(seen[0].mean(), rel=1e-6)
    assert history.rise[-1] == pytest.approx(seen[1].mean(), rel=1e-6)
    assert (seen[0][-1], seen[1][-1]) == (float(state.rho), float(state.rise))
    assert history.record(2)["rho"] == history.rho[-1]
    fixed = fit(dataclasses.replace(config, options={"rho": 0.2}), small).history
    assert fixed.rho == pytest.approx([0.2, 0.2])
    plain = fit(dataclasses.replace(config, method="sgd", options={}), small).history
    assert plain.rho == plain.rise == [0.0, 0.0]


def test_histories_of_before_have_none():
    old = {"layers": ["a"], "step": [1, 2], "train_loss": [1.0, 0.5]}
    assert np.isnan(History.from_json(old).rho).all()
    assert len(History.from_json(old).rise) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sam", {"rho": 1e-4}, r"too small to matter: .* rose by 0\.\d+% at most. Try rise=0.1"),
        ("sam", {"rho": 0.5}, None),
        ("sgd", {}, None),
        ("sam", {"rise": 1e-7}, r"at its bound of 0.001 for more than an epoch"),
        ("sam", {"rise": 0.05}, None),
    ],
)
def test_warns_of_a_radius_that_does_nothing(small, tmp_path, capsys, name, options, words):
    epochs = 8 if options.get("rise") == 1e-7 else 2
    config = dataclasses.replace(TINY, method=name, options=options, epochs=epochs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsam_jax.experiments.training.step.datasets.load", lambda *args: small)
        train(config, tmp_path / "run", log=("json",))
    found = re.findall(r"^warning: (.*)$", capsys.readouterr().err, re.M)
    assert len(found) == (words is not None), found
    assert words is None or re.search(words, found[0])


def test_the_picture_shows_both():
    numbers = {"step": [4, 8, 12], "rho": [0.1, 0.4, 0.9], "rise": [0.01, 0.2, 0.3]}
    numbers = {name: np.array(values) for name, values in numbers.items()}
    run = RecordedRun("a", {"method": "sam", "epochs": 3}, ("a",), numbers, {}, {})
    drawn = curves.radii([Group("sam", "SAM", (run,))], "radius")
    pixels = imread(io.BytesIO(drawn.png))[..., :3]
    blue = np.array([0, 0x72, 0xB2]) / 255
    on_line = np.abs(pixels - blue).max(axis=-1) < 0.01
    middle = pixels.shape[1] // 2
    assert on_line[:, :middle].sum() > 100 < on_line[:, middle:].sum()
