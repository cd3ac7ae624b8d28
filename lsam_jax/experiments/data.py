"""Image data sets as NumPy arrays, and their batches.

A data set is two splits of uint8 images with int32 labels. Images stay uint8 until they are on
the device, where `normalise` makes them float. A new data set is one more function that returns
a `Dataset`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = np.ndarray | jax.Array


class Split(NamedTuple):
    """Images and their labels.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N].
    """

    images: Array
    labels: Array


class Dataset(NamedTuple):
    """A data set in memory.

    Attributes:
        name: What it is called on the command line.
        train: What the weights are fitted to.
        test: What is only ever evaluated.
        num_classes: Labels are 0 ... num_classes - 1.
        mean: Of the training pixels, for each channel.
        std: Their standard deviation.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def digits(test_fraction: float = 0.5, seed: int = 0) -> Dataset:
    """Scikit-learn's bundled 1797 handwritten digits, 8x8 pixels of 0 ... 16.

    Half of them are held out by default, as in scikit-learn's own examples: on this easy set a
    small test split could not tell methods apart.

    Args:
        test_fraction: Share of the images that is held out, with equal shares of every class.
        seed: Of the split. It is not the seed of a run: all runs see one split.

    Returns:
        The data set; nothing is downloaded.

    Raises:
        ValueError: When a split would be empty.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction={test_fraction} must lie between 0 and 1")
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=test_fraction, random_state=seed, stratify=labels
    )
    pixels = train_images.reshape(-1, train_images.shape[-1]).astype(np.float64)
    return Dataset(
        name="digits",
        train=Split(train_images, train_labels),
        test=Split(test_images, test_labels),
        num_classes=10,
        mean=tuple(pixels.mean(axis=0).tolist()),
        std=tuple(pixels.std(axis=0).tolist()),
    )


LOADERS: Mapping[str, Callable[[], Dataset]] = {"digits": digits}


def load(name: str) -> Dataset:
    """The data set called `name`.

    Raises:
        ValueError: When there is no such data set.
    """
    if name not in LOADERS:
        raise ValueError(f"data={name!r} is not known; choose one of {', '.join(LOADERS)}")
    return LOADERS[name]()


def normalise(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Float32 images with mean 0 and deviation 1 in every channel, on the device."""
    return (jnp.asarray(images, jnp.float32) - jnp.asarray(mean)) / jnp.asarray(std)


def batches(split: Split, batch_size: int, key: jax.Array) -> Iterator[Split]:
    """One epoch in an order drawn from `key`; the last, partial batch is left out.

    Args:
        split: What to draw from.
        batch_size: Images in a batch.
        key: Same key, same batches.

    Yields:
        Batches of exactly `batch_size` images.
    """
    order = np.asarray(jax.random.permutation(key, len(split.labels)))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield Split(split.images[chosen], split.labels[chosen])
