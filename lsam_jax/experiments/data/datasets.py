"""Image data sets as NumPy arrays, and their batches.

A data set is two splits of uint8 images with int32 labels. Images stay uint8 until they are on
the device, where `Dataset.preprocess` makes them float. A new data set is one more function that
returns a `Dataset`, and its entry in `LOADERS`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.experiments.data import tfds
from lsam_jax.experiments.data.augmentation import crop_and_flip, standardise
from lsam_jax.experiments.data.split import Array, Split
from lsam_jax.experiments.data.tfds import DataDir

SIZE = 32
"""Height and width of pictures that TFDS has; the paper does not give that of Flowers102."""


class Dataset(NamedTuple):
    """A data set in memory.

    Attributes:
        name: What it is called on the command line.
        train: What the weights are fitted to.
        validation: What is only ever evaluated.
        num_classes: Labels are 0 ... num_classes - 1.
        preprocess: uint8 images to floats, on the device.
        augment: What is done to the uint8 images of a training batch on the device, from a key
            (and by how many pixels they may move, its `pad`); None for nothing.
    """

    name: str
    train: Split
    validation: Split
    num_classes: int
    preprocess: Callable[[Array], jax.Array]
    augment: Callable[..., jax.Array] | None = None


def digits(data_dir: DataDir = None) -> Dataset:
    """Scikit-learn's bundled 1797 handwritten digits, 8x8 pixels of 0 ... 16.

    1200 to train on, 597 held out, a third of each class: on this easy set a small validation
    split could not tell methods apart. All runs see one split.
    """
    # Here, because they are slow to import.
    from sklearn.datasets import load_digits  # noqa: PLC0415
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[..., None], bunch.target.astype(np.int32)
    fitted, held_out, its_labels, held_out_labels = train_test_split(
        images, labels, test_size=597, random_state=0, stratify=labels
    )
    train, validation = Split(fitted, its_labels), Split(held_out, held_out_labels)
    mean, std = (float(of(fitted, dtype=np.float64)) for of in (np.mean, np.std))
    return Dataset("digits", train, validation, 10, Normalise((mean,), (std,)))


def _prepared(name: str, train: Sequence[str], test: Sequence[str], data_dir: DataDir) -> Dataset:
    """A data set that TFDS has prepared, of splits with these names, as the paper augments it."""
    fitted, num_classes = tfds.read(name, train, SIZE, data_dir)
    held_out, _ = tfds.read(name, test, SIZE, data_dir)
    return Dataset(name, fitted, held_out, num_classes, standardise, crop_and_flip)


LOADERS: Mapping[str, Callable[[DataDir], Dataset]] = {
    "digits": digits,
    "cifar10": partial(_prepared, "cifar10", ("train",), ("test",)),
    "cifar100": partial(_prepared, "cifar100", ("train",), ("test",)),
    # As in the layer-wise SAM paper, which trains on the largest split: 6149 images of 8189.
    "oxford_flowers102": partial(
        _prepared, "oxford_flowers102", ("test",), ("train", "validation")
    ),
}
"""What `load` knows."""


def load(name: str, data_dir: DataDir = None) -> Dataset:
    """The data set called `name`.

    Raises:
        ValueError: When there is no such data set.
        OSError: When it is not prepared (FileNotFoundError), cannot be, or is damaged.
    """
    if name not in LOADERS:
        raise ValueError(f"data={name!r} is not known; choose one of {', '.join(LOADERS)}")
    return LOADERS[name](data_dir)


def limited(
    data: Dataset,
    images: int | None = None,
    validation_images: int | None = None,
    size: int | None = None,
    *,
    augment: bool = True,
    crop: int | None = None,
) -> Dataset:
    """A data set with fewer or smaller images, or without augmentation.

    Args:
        data: The data set.
        images: How many of its training images stay: the first. None for all.
        validation_images: How many of its validation images; likewise.
        size: Height and width that all are scaled to, see `tfds.fit_square`; None leaves them
            as they are.
        augment: Whether training images are still augmented.
        crop: By how many pixels that moves them at most; None leaves that as it is.

    Raises:
        ValueError: When there are not as many, or they lack three channels to be scaled.
    """
    train = _first(data.train, "images", images, f"training images of {data.name}")
    validation = _first(
        data.validation, "validation_images", validation_images, f"validation images of {data.name}"
    )
    if size is not None:
        train, validation = _scaled(train, size, data.name), _scaled(validation, size, data.name)
    moved = data.augment if augment else None
    if moved is not None and crop is not None:
        moved = partial(moved, pad=crop)
    return data._replace(train=train, validation=validation, augment=moved)


def hold_out(data: Dataset, images: int) -> Dataset:
    """A data set to tune on: its validation split is some of the training images.

    Args:
        data: The data set, whose own validation images are not used.
        images: How many of the training images are held out: the last.

    Raises:
        ValueError: When none would be left, or none held out.
    """
    count = len(data.train.labels)
    if not 0 < images < count:
        raise ValueError(
            f"images={images} must lie between 1 and {count - 1}, one less than the training "
            f"images of {data.name}"
        )
    train, held_out = (
        Split(*(part[rows] for part in data.train))
        for rows in (slice(count - images), slice(count - images, None))
    )
    return data._replace(train=train, validation=held_out)


def _first(split: Split, name: str, images: int | None, what: str) -> Split:
    count = len(split.labels)
    if images is not None and not 1 <= images <= count:
        raise ValueError(f"{name}={images} must lie between 1 and the {count} {what}")
    return Split(split.images[:images], split.labels[:images])


def _scaled(split: Split, size: int, name: str) -> Split:
    images = np.asarray(split.images)
    if images.shape[-1] != 3:
        raise ValueError(
            f"image_size={size} needs images of three channels, and those of {name} have "
            f"{images.shape[-1]}; leave it out"
        )
    return Split(np.stack([tfds.fit_square(one, size) for one in images]), split.labels)


@dataclasses.dataclass(frozen=True)
class Normalise:
    """Preprocessing by a data set's own statistics.

    Args:
        mean: Of the training pixels, for each channel.
        std: Their standard deviation, likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Array) -> jax.Array:
        """Float32 images of mean 0 and deviation 1 of uint8 ones [N, H, W, C], on the device."""
        return (jnp.asarray(images, jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
