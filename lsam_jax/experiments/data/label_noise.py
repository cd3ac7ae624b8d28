"""Labels drawn anew: noise that a network can only learn by heart."""

import numpy as np

from lsam_jax.experiments.data.datasets import Dataset
from lsam_jax.experiments.data.split import Split

STREAM = 0x6C6162656C
"""Keeps what is drawn here apart from what else a run draws from its seed."""


def drawn_anew(labels: np.ndarray, share: float, num_classes: int, seed: int) -> np.ndarray:
    """Labels of which a share is drawn anew, uniformly over all classes, the old one included.

    Which, and what they become, the seed alone decides; with ten classes and a share of 0.4 about
    36 % are wrong in the end. This is symmetric noise in the sense of Zhang et al.,
    `Understanding deep learning requires rethinking generalization
    <https://arxiv.org/abs/1611.03530>`_.

    Args:
        labels: int [N]; they stay as they are.
        share: Of the labels; ``round(share * N)`` are drawn anew.
        num_classes: Labels are 0 ... num_classes - 1.
        seed: Same seed, same labels.

    Returns:
        int [N].

    Example:
        >>> drawn_anew(np.zeros(8, np.int32), 0.5, 10, seed=0)
        array([7, 3, 0, 0, 1, 2, 0, 0], dtype=int32)
    """
    # Of uniform numbers alone, whose stream NumPy keeps the same from version to version.
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, STREAM])))
    order, new = generator.random((2, len(labels)))
    chosen = np.argsort(order, kind="stable")[: round(share * len(labels))]
    noisy = np.array(labels)
    noisy[chosen] = (new[chosen] * num_classes).astype(noisy.dtype)
    return noisy


def given(data: Dataset, share: float, seed: int) -> Split:
    """The training images with the labels that a run is given, see `drawn_anew`."""
    if not share:
        return data.train
    labels = drawn_anew(np.asarray(data.train.labels), share, data.num_classes, seed)
    return data.train._replace(labels=labels)
