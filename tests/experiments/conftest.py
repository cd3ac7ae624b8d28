"""A small data set and the programs that train on it."""

import dataclasses

import pytest
from tiny import TINY

from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.step import build


@pytest.fixture(scope="session", autouse=True)
def prepared_data(tmp_path_factory):
    """Nothing is written into a home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tensorflow_datasets")))
        yield


@pytest.fixture(scope="session")
def small():
    digits = datasets.digits()
    train = datasets.Split(*(part[:130] for part in digits.train))
    test = datasets.Split(*(part[:50] for part in digits.validation))
    return digits._replace(train=train, validation=test)


@pytest.fixture(scope="session")
def programs(small):
    return {
        m: build(dataclasses.replace(TINY, method=m, options={}), small) for m in ("sgd", "sam")
    }


@pytest.fixture(scope="session")
def layerwise(small):
    return build(TINY, small)


@pytest.fixture(scope="session")
def layerwise_run(layerwise):
    return fit(TINY, program=layerwise)
