"""The presets: the paper's numbers, real steps on data of the right shapes, full size by shape."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mocks import mocked

import lsam_jax as lsam
from lsam_jax.experiments.config import overrides, presets
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data.datasets import Split
from lsam_jax.experiments.training import dry_run
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.step import build

# Lee, KDD 2024, Table 1 and section 4.1: batch, learning rate, epochs, k, LookSAM's interval,
# r and alpha; the accuracies of SGD, generalized SAM, LookSAM and layer-wise SAM.
PAPER = {
    "cifar10-resnet20": (128, 0.1, 150, 4, 3, 0.1, 0.8, (91.96, 92.64, 92.14, 92.81)),
    "cifar100-wrn28-10": (128, 0.1, 200, 4, 2, 0.1, 0.8, (79.41, 80.83, 80.13, 81.25)),
    "flowers102-wrn16-2": (40, 0.1, 100, 2, 3, 0.1, 0.7, (69.82, 74.77, 73.53, 75.56)),
    "cifar100-vit-b16-head": (128, 0.001, 10, 1, 2, 0.1, 0.8, (90.73, 91.46, 91.15, 91.36)),
}
SMALL = {"flowers102-wrn16-2": 4, "cifar100-vit-b16-head": 12}  # a network of each kind


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers(name):
    batch, rate, epochs, k, interval, rho, alpha, published = PAPER[name]
    preset = presets.preset(name)
    for method in ("sgd", "sam", "generalized_sam", "layerwise_sam"):
        config = preset.configure(method)
        assert (config.batch_size, config.learning_rate, config.epochs) == (batch, rate, epochs)
        assert (config.momentum, config.label_smoothing, config.decay) == (0.9, 0.1, 0.1)
    for method in ("generalized_sam", "look_sam", "layerwise_sam"):
        options = dict(preset.configure(method).options)
        assert (options["rho"], options["alpha"]) == (rho, alpha)
    assert dict(preset.configure("layerwise_sam").options) == {"k": k, "rho": rho, "alpha": alpha}
    assert preset.configure("sam").options == (("rho", 0.05),)
    assert dict(preset.configure("look_sam").options)["every"] == interval
    assert (
        tuple(preset.published[m] for m in ("sgd", "generalized_sam", "look_sam", "layerwise_sam"))
        == published
    )
    steps = epochs * dry_run.OUTLINES[preset.config.data].images // batch
    drops = [round(share * steps) / steps * epochs for share in preset.config.decay_at]
    known = {"cifar10-resnet20": [100, 130], "cifar100-wrn28-10": [150, 180]}
    if name in known:
        np.testing.assert_allclose(drops, known[name], atol=0.01)
        assert preset.config.weight_decay == (2e-4 if "cifar10-" in name else 1e-3)


def test_settings_are_read_by_type():
    texts = "k=3 rho=1e-2 normalize=true decay_at= width=none model=wrn16_8 k=5 selection=low"
    values = overrides.parse(texts.split())
    assert values == {
        "k": 5, "rho": 0.01, "normalize": True, "decay_at": (), "width": None, "model": "wrn16_8",
        "selection": "low",
    }  # fmt: skip
    config = presets.preset("flowers102-wrn16-2").configure("layerwise_sam", **values)
    assert (config.model, config.decay_at, config.batch_size) == ("wrn16_8", (), 40)
    assert dict(config.options) == {
        "k": 5, "rho": 0.01, "alpha": 0.7, "normalize": True, "selection": "low",
    }  # fmt: skip
    assert overrides.parse(["dynamic=no", "a=Yes", "b=0", "c=false"]) == {
        "dynamic": False, "a": True, "b": 0, "c": False,
    }  # fmt: skip
    for text, words in (("epochs=1.5", "whole number"), ("random_init=maybe", "true or false"),
                        ("decay_at=a", "numbers"), ("clip_norm=", "a number or none"),
                        ("rho", "must read name=value"), ("a b=1", "must read")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"--set {text}.*{words}"):
            overrides.parse([text])


def test_the_selection_of_no_layer_is_a_name_and_not_nothing():
    assert overrides.parse(["selection=none", "k=none"]) == {"selection": "none", "k": None}
    config = presets.preset("digits-resnet8").configure("layerwise_sam", selection="none")
    assert dict(config.options)["selection"] == "none"


@pytest.mark.parametrize(
    ("text", "names"),
    [("stem/kernel, head/kernel", ("stem/kernel", "head/kernel")), ("head,", ("head",))],
)
def test_a_selection_may_name_layers(text, names):
    values = overrides.parse([f"selection={text}"])
    assert values == {"selection": names}
    config = presets.preset("digits-resnet8").configure("layerwise_sam", k=None, **values)
    assert dict(Config.from_json(json.loads(json.dumps(config.to_json()))).options) == {
        **dict(config.options),
        "selection": names,
    }


def test_an_option_that_the_method_does_not_read_is_refused():
    with pytest.raises(ValueError, match=r"alpha=0.5 is not an option of method 'sam'.* rho"):
        presets.preset("cifar10-resnet20").configure("sam", alpha=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_real_steps_on_mock_data(name):
    preset = presets.preset(name)
    mock = mocked(preset.config.data, 4)
    changes = {"width": SMALL[name], "epochs": 1, "batch_size": 2, "random_init": True}
    config = preset.configure("layerwise_sam", cuts=1, **changes)  # less to compile than four
    program = build(config, mock)
    start = jax.tree.map(np.asarray, program.init(0).params)
    result = fit(config, program=program)
    assert int(result.state.step) == 2
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start, result.state.params)
    assert min(jax.tree.leaves(moved)) >= 0
    assert moved["head"]["kernel"] > 0
    record = result.history.record(1)
    assert sum(record["perturbations"].values()) == 2 * dict(config.options)["k"]
    assert 1 < record["cost"] < 2.01
    assert np.isfinite(record["sharpness"])
    again = fit(config, program=program)
    assert again.history == result.history


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kernels", "trained", "whole"),
    [
        ("cifar10-resnet20", 23, 272_762, 272_762),
        ("cifar100-wrn28-10", 29, 36_539_124, 36_539_124),
        ("flowers102-wrn16-2", 17, 703_990, 703_990),
        ("cifar100-vit-b16-head", 2, 667_492, 86_466_148),
    ],
)
def test_full_size_by_shape(name, kernels, trained, whole):
    preset = presets.preset(name)
    config = preset.configure("layerwise_sam", random_init=True)
    program = dry_run.outline(config)
    assert len(program.layers) == kernels
    assert sum(program.sizes.values()) == trained
    assert trained + program.frozen == whole
    known = dry_run.OUTLINES[config.data]
    batch = Split(
        jax.ShapeDtypeStruct((config.batch_size, *known.shape), jnp.uint8),
        jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    )
    state = jax.eval_shape(lambda: program.init(0))
    after, metrics = jax.eval_shape(program.step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert metrics.loss.shape == metrics.accuracy.shape == ()


@pytest.mark.parametrize("name", dry_run.OUTLINES)
def test_an_outline_is_that_of_the_data(name, small):
    known = dry_run.OUTLINES[name]
    loaded = small if name == "digits" else mocked(name, 2)
    assert loaded.train.images.shape[1:] == known.shape
    assert loaded.num_classes == known.num_classes
    if name == "digits":
        whole = datasets.load("digits")
        assert len(whole.train.labels) == known.images
        assert len(whole.validation.labels) == known.validation_images


@pytest.mark.slow
def test_what_is_frozen_is_not_trained_and_not_in_the_state():
    preset = presets.preset("cifar100-vit-b16-head")
    config = preset.configure("layerwise_sam", width=12, random_init=True, batch_size=2, epochs=1)
    program = build(config, mocked("cifar100", 4))
    assert set(program.init(0).params) == {"hidden", "head"}
    assert lsam.layer_names(program.init(0).params) == ("head/kernel", "hidden/kernel")
    assert program.inspection.cost(["hidden/kernel"]) < 1.05  # the backbone is shared


def test_pretrained_weights_are_asked_for_and_random_ones_must_be_meant():
    vit = presets.preset("cifar100-vit-b16-head")
    mock = mocked("cifar100", 4)
    with pytest.raises(
        ValueError, match=r"'vit_b16' .*no weights.*--weights FILE.*random_init=true"
    ):
        build(vit.configure("layerwise_sam", batch_size=2), mock)
    with pytest.raises(ValueError, match="exclude each other"):
        build(vit.configure("layerwise_sam", batch_size=2, random_init=True), mock, weights="x.npz")
    with pytest.raises(FileNotFoundError, match=r"x\.npz"):
        build(vit.configure("layerwise_sam", batch_size=2), mock, weights="x.npz")
