"""Images and their labels."""

from typing import NamedTuple

import jax
import numpy as np

Array = np.ndarray | jax.Array


class Split(NamedTuple):
    """Of a data set, or of a batch.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N].
    """

    images: Array
    labels: Array
