"""The digits: scikit-learn's images in two parts, and parts of those to tune on."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lsam_jax.experiments.data import datasets


def test_digits_are_those_of_scikit_learn_in_two_parts():
    digits = datasets.load("digits")
    bunch = load_digits()
    train, validation = train_test_split(
        np.arange(1797), test_size=597, random_state=0, stratify=bunch.target
    )
    for split, chosen in ((digits.train, train), (digits.validation, validation)):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images[..., 0], bunch.images[chosen])
        np.testing.assert_array_equal(split.labels, bunch.target[chosen])
    assert np.bincount(digits.validation.labels).min() >= 57  # every class has its share
    assert digits.num_classes == 10
    assert digits.train.images.shape == (1200, 8, 8, 1)
    pixels = np.asarray(digits.preprocess(digits.train.images))
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std() - 1) < 1e-5


def test_hyper_parameters_are_chosen_on_training_images(small):
    part = datasets.hold_out(small, 30)
    np.testing.assert_array_equal(part.train.images, small.train.images[:100])
    np.testing.assert_array_equal(part.train.labels, small.train.labels[:100])
    np.testing.assert_array_equal(part.validation.images, small.train.images[100:])
    np.testing.assert_array_equal(part.validation.labels, small.train.labels[100:])
    assert part.preprocess == small.preprocess
    for images in (0, 130, -1):
        with pytest.raises(ValueError, match=f"images={images} must lie between 1 and 129"):
            datasets.hold_out(small, images)
