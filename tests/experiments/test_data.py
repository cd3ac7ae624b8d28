"""The data: split once and for all, drawn by a key."""

import jax
import numpy as np

from lsam_jax.experiments import (
    data,
)


def test_digits_are_split_once_and_for_all():
    digits = data.digits()
    assert len(digits.train.labels) + len(digits.validation.labels) == 1797
    assert digits.train.images.shape[1:] == (8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.max() == 16
    assert np.bincount(digits.validation.labels).min() >= 87  # every class has its share
    for a, b in zip(
        digits.train + digits.validation, data.digits().train + data.digits().validation
    ):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(digits.train.labels, data.digits(seed=1).train.labels)
    pixels = np.asarray(data.normalise(digits.train.images, digits.mean, digits.std))
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std() - 1) < 1e-5


def test_batches_follow_the_key_and_are_full():
    split = data.Split(np.arange(70, dtype=np.uint8), np.arange(70))
    once = [batch.labels for batch in data.batches(split, 16, jax.random.key(0))]
    again = [batch.labels for batch in data.batches(split, 16, jax.random.key(0))]
    other = [batch.labels for batch in data.batches(split, 16, jax.random.key(1))]
    assert [len(labels) for labels in once] == [16] * 4
    assert len(np.unique(once)) == 64
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    for batch in data.batches(split, 16, jax.random.key(0)):
        np.testing.assert_array_equal(batch.images, batch.labels)
