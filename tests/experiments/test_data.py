"""Batches that are drawn by a key."""

import jax
import numpy as np

from lsam_jax.experiments import (
    data,
)


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
