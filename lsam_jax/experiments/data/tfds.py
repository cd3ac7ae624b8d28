"""Reads data sets that TensorFlow Datasets has prepared, without TensorFlow and a network.

Only directories of array_record files are read: of the formats of TFDS it is the one that
``data_source`` supports and that keeps every example (its Parquet writer drops most of them
without a word, seen in 4.9.10). What is not there is found by looking at the files: asked itself,
TFDS would first try to download for minutes.
"""

import io
import itertools
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.files import PathLike

DataDir = PathLike | None
CHUNK = 100


def read(
    name: str, splits: Sequence[str], size: int, data_dir: DataDir = None
) -> tuple[Split, int]:
    """All images of the splits, one split after the other.

    Args:
        name: Of the data set in TFDS.
        splits: Names of its splits.
        size: Height and width of the result, which has three channels, see `fit_square`.
        data_dir: Where TFDS keeps prepared data; None for the environment variable
            ``TFDS_DATA_DIR`` or else ``~/tensorflow_datasets``, as in TFDS.

    Returns:
        The same arrays in every call, and how many classes there are.

    Raises:
        FileNotFoundError: When the data set is not there, or not as array_record.
        ModuleNotFoundError: Without tensorflow-datasets, which the extra ``train`` has.
        OSError: When its files are damaged.
    """
    try:
        opened = sources(name, splits, data_dir)
        images = _materialise(opened, size)
    except RuntimeError as error:  # what array_record raises
        directory = prepared_directory(name, splits, data_dir)
        raise OSError(
            f"data={name!r} is damaged in {directory}: {str(error).splitlines()[0]}; delete the "
            "directory and prepare it again"
        ) from error
    return images, opened[0].dataset_info.features["label"].num_classes


def sources(name: str, splits: Sequence[str], data_dir: DataDir) -> list[Any]:
    """A TFDS data source for each split; what it gives as the image is encoded or an array."""
    directory = prepared_directory(name, splits, data_dir)
    import tensorflow_datasets as tfds  # noqa: PLC0415 (slow to import)

    # From the directory, not by the name: so no code of the data set runs that might download.
    builder = tfds.builder_from_directory(str(directory))
    # Pictures are left to `_decode`, which decodes a large JPEG at a fraction of its size.
    decoders = {"image": tfds.decode.SkipDecoding()}
    return [builder.as_data_source(split, decoders=decoders) for split in splits]


def _materialise(opened: Sequence[Any], size: int) -> Split:
    ends = list(itertools.accumulate(map(len, opened)))
    images = np.empty((ends[-1], size, size, 3), np.uint8)
    labels = np.empty(ends[-1], np.int32)

    def fill(source: Any, start: int, offset: int) -> None:
        indices = range(start, min(start + CHUNK, len(source)))
        for row, example in enumerate(source.__getitems__(list(indices)), offset + start):
            images[row] = _decode(example["image"], size)
            labels[row] = example["label"]

    # Pillow decodes without Python's lock, which is worth threads where pictures are large. With
    # those of CIFAR the time goes into Python itself, and threads only wait for one another.
    shape = opened[0].dataset_info.features["image"].shape
    threads = os.cpu_count() if shape[0] is None else 1
    with ThreadPoolExecutor(threads) as pool:
        for source, end in zip(opened, ends, strict=True):
            starts = range(0, len(source), CHUNK)
            list(pool.map(partial(fill, source, offset=end - len(source)), starts))
    return Split(images, labels)


def prepared_directory(name: str, splits: Sequence[str], data_dir: DataDir = None) -> Path:
    """The directory of the newest prepared version of a data set.

    Args:
        name: As in `read`.
        splits: As in `read`; all their files must be there.
        data_dir: As in `read`.

    Raises:
        FileNotFoundError: When there is none; the message says how to prepare it.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    versions = sorted((root / name).glob("*.*.*/dataset_info.json"), key=_version)
    formats = {file: json.loads(file.read_text()).get("fileFormat") for file in versions}
    usable = [file.parent for file, kind in formats.items() if kind == "array_record"]
    if usable:
        directory = usable[-1]
        missing = [s for s in splits if not any(directory.glob(f"{name}-{s}.array_record-*"))]
        if not missing:
            return directory
        problem = f"lacks the split {missing[0]!r} in {directory}"
    elif formats:
        kinds = ", ".join(sorted({str(kind) for kind in formats.values()}))
        problem = f"is prepared as {kinds}, not as array_record, in {root / name}"
    else:
        problem = f"is not prepared in {root}"
    raise FileNotFoundError(
        f"data={name!r} {problem}; give the data_dir that has it, or prepare it once where there "
        "is a network: pip install tensorflow tensorflow-datasets importlib_resources && "
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
        f"data_dir='{root}', file_format='array_record').download_and_prepare()\" "
        "(TensorFlow is needed for this step alone; TFDS does not ask pip for "
        "importlib_resources, though it imports it)"
    )


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of an image, scaled to `size`.

    Args:
        image: uint8 [H, W, 3].
        size: Height and width of the result.

    Returns:
        uint8 [size, size, 3]; an image of that shape comes back as it is.
    """
    return np.asarray(_square(Image.fromarray(image), size))


def _decode(picture: bytes | np.ndarray, size: int) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        return fit_square(picture, size)
    with Image.open(io.BytesIO(picture)) as image:
        image.draft("RGB", (2 * size, 2 * size))  # JPEG alone; never below the size that is asked
        colours = image if image.mode == "RGB" else image.convert("RGB")
        return np.asarray(_square(colours, size))


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if (width, height) == (size, size):
        return image
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cut first: `resize` with a box would blend in pixels from outside of it.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)  # antialiased


def _version(info: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in info.parent.name.split("."))
