"""Scikit-learn's digits as a TFDS data set, written on first use, without TensorFlow.

Images are stored as arrays, because TFDS would need TensorFlow to encode them as PNG.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lsam_jax.experiments.data import tfds as data_tfds

SPLITS = ("train", "validation")
HELD_OUT = 597


# Not registered, so that to import this changes nothing. mypy sees no base class here.
class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The 1797 digits of `sklearn.datasets.load_digits`, a third of each class held out."""

    name = "digits"
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"1.0.0": "Half held out.", "2.0.0": "597 held out, a third."}  # noqa: RUF012

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8x8 pixels with 17 grey levels, as in scikit-learn.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
            disable_shuffling=True,  # the order that is written is the order that is read
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        # Here, because they are slow to import and the digits are written once.
        from sklearn.datasets import load_digits  # noqa: PLC0415
        from sklearn.model_selection import train_test_split  # noqa: PLC0415

        bunch = load_digits()
        images = bunch.images.astype(np.uint8)[..., None]
        parts = train_test_split(
            images, bunch.target, test_size=HELD_OUT, random_state=0, stratify=bunch.target
        )
        splits = zip(SPLITS, zip(parts[:2], parts[2:]))
        return {split: self._generate_examples(*both) for split, both in splits}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, Any]]:
        for index, (image, label) in enumerate(zip(images, labels)):
            yield index, {"image": image, "label": int(label)}


def prepare(data_dir: data_tfds.DataDir = None) -> None:
    """Writes the digits, unless they are there; several processes may do so at once.

    Args:
        data_dir: Where TFDS keeps prepared data; None for its default.

    Raises:
        OSError: When they cannot be written.
    """
    root = data_tfds.data_root(data_dir)
    if _is_prepared(root):
        return
    target = root / Digits.name / str(Digits.VERSION)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="digits.incomplete-", dir=root) as workshop:
            _write(workshop)
            _publish(Path(workshop) / Digits.name / target.name, target)
    except OSError as error:
        raise OSError(
            f"data='digits' cannot be prepared in {root}: {error}; give a data_dir that can be "
            f"written (or set TFDS_DATA_DIR), and delete {target} if it is a broken rest"
        ) from error


def _write(data_dir: str) -> None:
    """Prepares quietly: TFDS announces a download, and shows four progress bars for 0.1 s."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            Digits(data_dir=data_dir, file_format="array_record").download_and_prepare()
    finally:
        tfds.enable_progress_bar()


def _publish(directory: Path, target: Path) -> None:
    """Moves a finished directory to its place in one step, unless another process was first."""
    try:
        directory.rename(target)
    except OSError:
        if not _is_prepared(target.parent.parent):
            raise


def _is_prepared(root: Path) -> bool:
    """Whether they are there, as this version splits them."""
    try:
        found = data_tfds.prepared_directory(Digits.name, SPLITS, root)
    except FileNotFoundError:
        return False
    return found.name == str(Digits.VERSION)
