"""Noisy labels: the stated share, drawn once by the run's seed; what is evaluated stays clean."""

import dataclasses
import json
import zlib

import jax
import numpy as np
import pytest
from tiny import TINY

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.objective import TrainingLoss
from lsam_jax.experiments.config.presets import preset
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data.label_noise import drawn_anew
from lsam_jax.experiments.files import CONFIG
from lsam_jax.experiments.models import resnet
from lsam_jax.experiments.study.cells import changes
from lsam_jax.experiments.study.reproduce import plan, write_study
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.run_directory import Run
from lsam_jax.experiments.training.step import build

NOISY = dataclasses.replace(TINY, method="sgd", options={}, label_noise=0.4, epochs=1)


@pytest.fixture(scope="module")
def noisy(small):
    return build(NOISY, small)


def test_the_share_that_is_asked_for_is_drawn_anew_over_all_classes():
    labels = np.repeat(np.arange(10, dtype=np.int32), 2000)
    found = drawn_anew(labels, 0.4, 10, seed=0)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 2000))  # left as they were
    # A tenth of those that are drawn anew get the class that they had: 0.4 x 0.9 are wrong.
    np.testing.assert_allclose(np.mean(found != labels), 0.36, atol=0.01)
    table = np.array([np.bincount(found[labels == one], minlength=10) for one in range(10)])
    np.testing.assert_allclose(np.diag(table), 2000 * 0.64, atol=100)
    np.testing.assert_allclose(table[~np.eye(10, dtype=bool)], 2000 * 0.04, atol=45)


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.25, 25), (1.0, 100)])
def test_the_number_of_labels_is_exact(share, wrong):
    # Labels beyond the classes that are drawn: every new one is seen.
    found = drawn_anew(np.full(100, 7), share, 5, seed=3)
    assert np.sum(found != 7) == wrong
    assert found[found != 7].min(initial=0) >= 0
    assert found[found != 7].max(initial=0) <= 4


def test_the_seed_decides_for_good():
    labels = np.arange(1200, dtype=np.int32) % 10
    first, again, other = (drawn_anew(labels, 0.4, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0.4 < np.mean(first != other) < 0.7
    # In every version, on every machine: a resumed run and a repeated study need the same.
    assert [zlib.crc32(x.tobytes()) for x in (first, other)] == [926944574, 3164316087]
    changed = [set(np.flatnonzero(x != labels)) for x in (first, other)]
    assert 0.2 < len(changed[0] & changed[1]) / len(changed[0]) < 0.5  # other images, too


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_share_that_is_none_is_named(value):
    words = "finite" if not np.isfinite(value) else "at least 0 and at most 1"
    with pytest.raises(ValueError, match=f"label_noise must be {words}; got label_noise={value}"):
        Config(label_noise=value)


def test_a_run_trains_on_noisy_labels_and_is_evaluated_on_clean_ones(noisy, small):
    for seed in (0, 1):
        wanted = drawn_anew(small.train.labels, 0.4, 10, seed)
        of_image = {image.tobytes(): one for image, one in zip(small.train.images, wanted)}
        batch = noisy.batches(seed)[5]
        assert batch.labels.tolist() == [of_image[image.tobytes()] for image in batch.images]
        np.testing.assert_array_equal(noisy.train(seed).labels, wanted)
        np.testing.assert_array_equal(noisy.train(seed).images, small.train.images)
    # The clean labels stay at hand.
    np.testing.assert_array_equal(noisy.data.train.labels, small.train.labels)
    np.testing.assert_array_equal(noisy.data.validation.labels, small.validation.labels)


@pytest.mark.slow
def test_the_gradient_norm_is_that_of_the_labels_that_are_trained_on(noisy, small):
    state = noisy.init(1)
    loss_fn = TrainingLoss(resnet.resnet8(width=4), small.preprocess, 0.1)
    gradient = jax.jit(jax.grad(loss_fn, has_aux=True))

    def norm(labels):
        split = datasets.Split(small.train.images, labels)
        grads, _ = gradient(state.params, state.batch_stats, {}, split, jax.random.key(0))
        return np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(grads)))

    given = drawn_anew(small.train.labels, 0.4, 10, 1)
    found = noisy.probe(state, 1).norm
    np.testing.assert_allclose(found, norm(given), rtol=1e-4)
    assert abs(norm(small.train.labels) / norm(given) - 1) > 0.01


@pytest.mark.slow
def test_labels_fitted_are_those_as_given(noisy, small):
    state = fit(dataclasses.replace(NOISY, seed=1), program=noisy).state
    logits = resnet.resnet8(width=4).apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        small.preprocess(small.train.images),
    )
    given = drawn_anew(small.train.labels, 0.4, 10, 1)
    right = np.mean(np.argmax(logits, axis=1) == given)
    assert noisy.fitted(state, 1) == pytest.approx(right)
    assert right != np.mean(np.argmax(logits, axis=1) == small.train.labels)


def test_without_noise_nothing_changes(programs, small):
    np.testing.assert_array_equal(programs["sgd"].train(5).labels, small.train.labels)


def test_the_share_is_kept_with_the_run_and_checked(tmp_path):
    Run(tmp_path, NOISY).close()
    (tmp_path / "checkpoints" / "4").mkdir()
    assert json.loads((tmp_path / CONFIG).read_text())["config"]["label_noise"] == 0.4
    with pytest.raises(ValueError, match=r"label_noise=0.4 there, label_noise=0.2 now"):
        Run(tmp_path, dataclasses.replace(NOISY, label_noise=0.2), resume=True)
    Run(tmp_path, NOISY, resume=True).close()


def test_a_run_that_began_before_there_was_such_a_setting_goes_on(tmp_path):
    Run(tmp_path, TINY).close()
    (tmp_path / "checkpoints" / "4").mkdir()
    file = tmp_path / CONFIG
    written = json.loads(file.read_text())
    del written["config"]["label_noise"]
    file.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r"configuration: label_noise=0.0 there, .*=0.4 now"):
        Run(tmp_path, dataclasses.replace(TINY, label_noise=0.4), resume=True)
    Run(tmp_path, TINY, resume=True).close()


def test_a_study_takes_the_share_and_says_so(tmp_path):
    study = plan(["table3"], preset("cifar10-resnet20"), "cpu", 1, {"label_noise": 0.4})
    assert {config.label_noise for config in study.configs.values()} == {0.4}
    said = changes(study.preset, study.configs["sgd"])
    assert [text for text in said if "label" in text] == ["40 % of the training labels drawn anew"]
    write_study(tmp_path, study, {})
    written = json.loads((tmp_path / "study.json").read_text())
    assert written["command"].endswith("--set label_noise=0.4")
    assert written["scale"]["says"] == said
