"""Random images of TFDS go the way of real ones, however few they are."""

import numpy as np
import pytest
from mocks import NAMES, mocked

CLASSES = {"cifar10": 10, "cifar100": 100, "oxford_flowers102": 102}


@pytest.mark.parametrize("num_examples", [1, 5])
@pytest.mark.parametrize("name", NAMES)
def test_mocked_data_have_the_shapes_of_the_real(name, num_examples):
    mock = mocked(name, num_examples)
    held_out = 2 if name == "oxford_flowers102" else 1  # splits
    for split, count in ((mock.train, num_examples), (mock.validation, held_out * num_examples)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.shape == (count,)
        assert 0 <= split.labels.min() <= split.labels.max() < CLASSES[name]
        assert split.images.std() > 20
    assert (mock.name, mock.num_classes) == (name, CLASSES[name])
