"""Data sets of random images in the shapes of the real ones, made up by TFDS."""

from unittest import mock

import tensorflow_datasets as tfds

from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data import tfds as data_tfds

NAMES = ("cifar10", "cifar100", "oxford_flowers102")


def mocked(name, num_examples=8):
    """What `data.load` makes of a data set with `num_examples` random images in every split.

    Only the files are missing: instead of a prepared directory, TFDS's own code of the data set
    is asked, which gives arrays where files give encoded pictures. All splits of TFDS hold the
    same images.
    """
    with (
        tfds.testing.mock_data(num_examples=num_examples),
        mock.patch.object(data_tfds, "sources", _sources),
    ):
        return datasets.load(name)


def _sources(name, splits, data_dir):
    sources = [tfds.data_source(name, split=split, download=False) for split in splits]
    for source in sources:
        # TFDS 4.9.10 mocks reading many at once by a function that misses its self.
        records = source.data_source
        records.__getitems__ = lambda keys, records=records: [records[key] for key in keys]
    return sources
