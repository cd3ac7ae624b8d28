"""The command line with a network and a data set so small that starting up is all it takes.

Run as a program, it is `lsam-jax`, for tests of several processes.
"""

import sys

import flax.linen as nn
import jax
import numpy as np

from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.models import registry

IMAGES, BATCH = 64, 16
TRAIN = ["train", "digits-resnet8", "--method", "layerwise_sam", "--set", f"batch_size={BATCH}"]


class Mini(nn.Module):
    """Two dense layers with batch normalisation and dropout between them."""

    num_classes: int
    dtype: type

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        x = nn.Dense(8, name="stem")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.num_classes, name="head")(x)


def dataset(data_dir=None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (IMAGES + 30, 4, 4, 1)).astype(np.uint8)
    labels = images.reshape(len(images), -1)[:, :3].argmax(axis=1).astype(np.int32)
    parts = [
        datasets.Split(images[part], labels[part]) for part in (slice(IMAGES), slice(IMAGES, None))
    ]
    scaled = datasets.Normalise((8.0,), (5.0,))
    return datasets.Dataset("digits", *parts, num_classes=3, preprocess=scaled)


def install(set_item):
    """Replaces the network and the data set, by a function like `MonkeyPatch.setitem`."""
    set_item(registry.ARCHITECTURES, "resnet8", registry.Architecture(Mini))
    set_item(datasets.LOADERS, "digits", dataset)


def configuration(**changes):
    from lsam_jax.experiments.config import presets  # noqa: PLC0415 (starts the devices)

    options = {"batch_size": BATCH, **changes}
    return presets.preset("digits-resnet8").configure("layerwise_sam", **options)


def assert_close(got, want):
    """Two runs in everything, to rounding."""
    for name, values in want.history.to_json().items():
        if name == "layers":
            assert list(values) == list(got.history.layers)
        else:
            np.testing.assert_allclose(getattr(got.history, name), values, rtol=2e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(got.state), jax.tree.leaves(want.state), strict=True):
        if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    install(dict.__setitem__)
    sys.exit(main(sys.argv[1:]))
