"""Augmentation against NumPy, and that it follows its key."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.objective import augmented
from lsam_jax.experiments.data import augmentation, datasets
from lsam_jax.experiments.training.loop import fit

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 10, 12, 3), dtype=np.uint8)


def by_hand(images, offsets, mirrored, pad):
    results = []
    for image, (row, column), mirror in zip(images, offsets, mirrored):
        height, width, channels = image.shape
        padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), image.dtype)
        padded[pad : pad + height, pad : pad + width] = image
        cut = padded[row : row + height, column : column + width]
        results.append(np.fliplr(cut) if mirror else cut)
    return np.stack(results)


def test_crop_and_flip_are_those_of_numpy():
    key = jax.random.key(3)
    offsets, mirrored = augmentation.draw(key, len(IMAGES), augmentation.PAD)
    expected = by_hand(IMAGES, np.asarray(offsets), np.asarray(mirrored), 4)
    got = jax.jit(augmentation.crop_and_flip)(jnp.asarray(IMAGES), key)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(
        augmentation.crop(jnp.asarray(IMAGES), jnp.full((64, 2), 4), 4), IMAGES
    )


def test_images_may_be_mirrored_alone():
    key = jax.random.key(3)
    _, mirrored = augmentation.draw(key, len(IMAGES), 0)
    assert 16 < np.sum(mirrored) < 48
    expected = np.where(mirrored[:, None, None, None], IMAGES[:, :, ::-1], IMAGES)
    whole = datasets.Split(IMAGES, np.arange(64))
    both = augmentation.standardise, augmentation.crop_and_flip
    crops = datasets.Dataset("", whole, whole, 64, *both)
    mirrors = datasets.limited(crops, crop=0).augment
    np.testing.assert_array_equal(mirrors(jnp.asarray(IMAGES), key), expected)
    assert datasets.limited(crops, crop=0, augment=False).augment is None
    assert datasets.limited(crops._replace(augment=None), crop=0).augment is None


def test_every_offset_is_drawn_equally_often_and_half_is_mirrored():
    offsets, mirrored = augmentation.draw(jax.random.key(0), 9 * 2000, 4)
    for column in np.asarray(offsets).T:
        counts = np.bincount(column, minlength=9)
        assert len(counts) == 9
        np.testing.assert_allclose(counts, 2000, atol=5 * 2000**0.5)
    assert abs(np.mean(mirrored) - 0.5) < 5 * 0.5 / (9 * 2000) ** 0.5
    assert abs(np.corrcoef(np.asarray(offsets).T)[0, 1]) < 0.05  # rows and columns apart
    assert abs(np.corrcoef(offsets[:, 0], mirrored)[0, 1]) < 0.05


def test_the_same_key_gives_the_same_images():
    once, again, other = (
        np.asarray(augmentation.crop_and_flip(jnp.asarray(IMAGES), jax.random.key(seed)))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_standardise_is_image_by_image():
    images = IMAGES.copy()
    images[0] = 7  # blank
    images[1] = images[1] // 8
    got = np.asarray(augmentation.standardise(images))
    values = images.astype(np.float64)
    for result, image in zip(got[1:], values[1:]):
        np.testing.assert_allclose(result, (image - image.mean()) / image.std(), atol=1e-5)
    np.testing.assert_array_equal(got[0], 0)
    single = np.zeros((1, 8, 8, 1), np.uint8)
    single[0, 2, 3] = 1
    assert 0 < np.asarray(augmentation.standardise(single)).max() < 8.01


def test_a_batch_is_augmented_from_its_key_and_only_when_asked():
    batch = datasets.Split(IMAGES[:8], np.arange(8, dtype=np.int32))
    key = jax.random.key(5)
    got, rest = augmented(augmentation.crop_and_flip, batch, key)
    expected_rest, draws = jax.random.split(key)
    by_hand = augmentation.crop_and_flip(jnp.asarray(batch.images), draws)
    np.testing.assert_array_equal(got.images, by_hand)
    np.testing.assert_array_equal(got.labels, batch.labels)
    assert jax.random.key_data(rest).tolist() == jax.random.key_data(expected_rest).tolist()
    assert (np.asarray(got.images) != batch.images).any()
    same, untouched = augmented(None, batch, key)
    assert same is batch and untouched is key


@pytest.mark.slow
def test_a_run_trains_on_augmented_images():
    small = datasets.Dataset(
        "digits",
        *[datasets.Split(IMAGES[:8], np.arange(8, dtype=np.int32))] * 2,
        8,
        augmentation.standardise,
    )
    shown = small._replace(augment=augmentation.crop_and_flip)
    config = Config(method="sgd", width=4, epochs=1, batch_size=8)
    losses = {}
    for name, one, augment in [
        ("plain", small, True),
        ("augmented", shown, True),
        ("switched off", shown, False),
    ]:
        wanted = dataclasses.replace(config, augment=augment)
        losses[name] = fit(wanted, one).history.train_loss
    assert losses["plain"] == losses["switched off"] != losses["augmented"]
