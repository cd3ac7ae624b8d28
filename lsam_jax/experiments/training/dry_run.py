"""A configuration's program without its data, for what shapes alone decide."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data.augmentation import crop_and_flip, standardise
from lsam_jax.experiments.data.datasets import Dataset
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.training.step import Program, build


class Outline(NamedTuple):
    """What is known of a data set beforehand.

    Attributes:
        images: How many there are to train on.
        validation_images: How many there are to validate on.
        shape: Of an image, [H, W, C].
        num_classes: How many there are.
    """

    images: int
    validation_images: int
    shape: tuple[int, int, int]
    num_classes: int


OUTLINES: Mapping[str, Outline] = {
    "digits": Outline(1200, 597, (8, 8, 1), 10),
    "cifar10": Outline(50_000, 10_000, (32, 32, 3), 10),
    "cifar100": Outline(50_000, 10_000, (32, 32, 3), 100),
    "oxford_flowers102": Outline(6149, 2040, (32, 32, 3), 102),
}


def outline(config: Config) -> Program:
    """The program of a configuration on black images that take no memory; nothing is computed.

    Raises:
        ValueError: When the configuration does not fit the data's shapes or the model.
    """
    if config.data not in OUTLINES:
        raise ValueError(f"data={config.data!r} is not known; choose from {', '.join(OUTLINES)}")
    known = OUTLINES[config.data]
    black = np.broadcast_to(np.uint8(0), (known.images, *known.shape))
    split = Split(black, np.broadcast_to(np.int32(0), known.images))
    augment = None if config.data == "digits" else crop_and_flip
    data = Dataset(config.data, split, split, known.num_classes, standardise, augment)
    return build(config, data)
