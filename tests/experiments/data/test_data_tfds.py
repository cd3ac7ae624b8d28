"""Data that TFDS has prepared: read without TensorFlow, refused at once when it is not there."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lsam_jax.experiments.data import augmentation, datasets
from lsam_jax.experiments.data import tfds as data_tfds

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tfds"
SPLITS = {
    "cifar10": {"train": 5, "test": 3},
    "cifar100": {"train": 4, "test": 2},
    "oxford_flowers102": {"train": 2, "validation": 3, "test": 4},
}
CLASSES = {"cifar10": 10, "cifar100": 100, "oxford_flowers102": 102}
SHAPES = {"cifar10": (32, 32), "cifar100": (32, 32), "oxford_flowers102": (None, None)}


def pictures(name, split):
    rng = np.random.default_rng([len(name), len(split)])
    height, width = (h or w for h, w in zip(SHAPES[name], (40, 70)))
    images = rng.integers(0, 256, (SPLITS[name][split], height, width, 3), dtype=np.uint8)
    return images, rng.integers(0, CLASSES[name], len(images))


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file


def prepare(name_, data_dir):
    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = name_
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(*SHAPES[name_], 3)),
                "label": tfds.features.ClassLabel(num_classes=CLASSES[name_]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in SPLITS[name_]}

        def _generate_examples(self, split):
            for index, (image, label) in enumerate(zip(*pictures(name_, split))):
                yield index, {"image": png(image), "label": int(label)}

    Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    for name in SPLITS:
        prepare(name, directory)
    return directory


def expected(name, splits):
    """Rows of images and labels in any order: TFDS shuffles what it prepares."""
    images, labels = (np.concatenate(x) for x in zip(*(pictures(name, s) for s in splits)))
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels))


def rows(split):
    return sorted((image.tobytes(), int(label)) for image, label in zip(*split))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_what_was_prepared(prepared, name):
    loaded = datasets.load(name, prepared)
    assert loaded.name == name
    assert loaded.num_classes == CLASSES[name]
    assert loaded.train.images.dtype == np.uint8
    assert loaded.train.labels.dtype == np.int32
    assert rows(loaded.train) == expected(name, ["train"])
    assert rows(loaded.validation) == expected(name, ["test"])
    assert loaded.augment is augmentation.crop_and_flip
    for a, b in zip(
        loaded.train + loaded.validation, datasets.load(name, prepared).train + loaded.validation
    ):
        np.testing.assert_array_equal(a, b)


def test_flowers_train_on_the_test_split_and_hold_out_the_rest(prepared):
    flowers = datasets.load("oxford_flowers102", prepared)
    assert flowers.train.images.shape == (4, 32, 32, 3)
    assert flowers.validation.images.shape == (5, 32, 32, 3)
    assert sorted(flowers.train.labels) == sorted(pictures("oxford_flowers102", "test")[1])
    held_out = [pictures("oxford_flowers102", split)[1] for split in ("train", "validation")]
    assert sorted(flowers.validation.labels) == sorted(np.concatenate(held_out))
    assert flowers.num_classes == 102


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_the_order_is_that_of_tfds_one_split_after_the_other(prepared, name, monkeypatch):
    monkeypatch.setattr(data_tfds, "CHUNK", 2)  # with threads for the flowers
    splits = list(SPLITS[name])
    got, _ = data_tfds.read(name, splits, 32, prepared)
    builder = tfds.builder_from_directory(str(prepared / name / "3.0.2"))
    examples = [example for split in splits for example in builder.as_data_source(split)]
    images = [data_tfds.fit_square(example["image"], 32) for example in examples]
    np.testing.assert_array_equal(got.images, images)
    np.testing.assert_array_equal(got.labels, [example["label"] for example in examples])


def test_a_grey_picture_gets_three_channels():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    got = data_tfds._decode(png(grey).read(), 8)
    np.testing.assert_array_equal(got, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("shape", [(40, 70), (70, 40)])
def test_the_central_square_is_kept(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[(shape[0] - 40) // 2 :, (shape[1] - 40) // 2 :][:40, :40] = 200
    image[shape[0] // 2 :, shape[1] // 2 :] //= 2
    small = data_tfds.fit_square(image, 10)
    assert small.shape == (10, 10, 3)
    np.testing.assert_array_equal(small[:4, :4], 200)  # nothing of the rim
    np.testing.assert_array_equal(small[6:, :4], 200)
    np.testing.assert_array_equal(small[7:9, 7:9], 100)
    np.testing.assert_array_equal(data_tfds.fit_square(image[:30, :30], 30), image[:30, :30])


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_and_alike():
    # Waves of 32 pixels, which a decoding below the size that is asked would wash out.
    waves = 128 + 100 * np.sin(np.add.outer(np.arange(600), np.arange(800)) * 2 * np.pi / 32)
    picture = np.repeat(waves.astype(np.uint8)[..., None], 3, axis=2)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=95)
    got = data_tfds._decode(file.getvalue(), 128).astype(float)
    whole = data_tfds.fit_square(picture, 128)
    assert np.abs(got - whole).mean() < 3


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_what_is_not_prepared_is_an_error_that_says_how(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "builder_from_directory", None)  # TFDS is not even asked
    monkeypatch.setattr(tfds, "data_source", None)
    monkeypatch.setattr(tfds, "builder", None)
    words = f"data='{name}' is not prepared in {tmp_path}; .*importlib_resources.*'{name}'"
    with pytest.raises(FileNotFoundError, match=words) as caught:
        datasets.load(name, tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=words):
        datasets.load(name)


def test_another_format_and_a_missing_split_are_named(prepared, tmp_path):
    info = json.loads((prepared / "cifar10" / "3.0.2" / "dataset_info.json").read_text())
    directory = tmp_path / "cifar10" / "3.0.2"
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "parquet"}))
    with pytest.raises(FileNotFoundError, match=r"prepared as parquet, not as array_record"):
        datasets.load("cifar10", tmp_path)
    (directory / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(FileNotFoundError, match=r"lacks the split 'train' in .*3\.0\.2"):
        datasets.load("cifar10", tmp_path)


def test_a_damaged_file_is_named(prepared, tmp_path):
    shutil.copytree(prepared / "cifar10", tmp_path / "cifar10")
    (file,) = (tmp_path / "cifar10" / "3.0.2").glob("cifar10-test.array_record-*")
    file.write_bytes(file.read_bytes()[:-70_000])
    with pytest.raises(
        OSError, match=r"data='cifar10' is damaged in .*3\.0\.2: .*prepare it again"
    ):
        datasets.load("cifar10", tmp_path)


def test_the_newest_version_is_taken(tmp_path):
    for version in ("3.0.2", "3.0.10"):
        directory = tmp_path / "cifar10" / version
        directory.mkdir(parents=True)
        (directory / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
        (directory / "cifar10-train.array_record-00000-of-00001").write_bytes(b"")
    assert data_tfds.prepared_directory("cifar10", ["train"], tmp_path).name == "3.0.10"


def test_an_unknown_name_lists_those_that_are_known():
    with pytest.raises(ValueError, match=r"'mnist'.*digits, cifar10, cifar100, oxford_flowers102"):
        datasets.load("mnist")


@pytest.mark.skipif(
    not (SHARED / "cifar10").is_dir(), reason="no prepared CIFAR-10 beside the repository"
)
def test_the_real_cifar10_is_decoded_as_tfds_does():
    test, _ = data_tfds.read("cifar10", ["test"], 32, SHARED)
    assert test.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)
    directory = data_tfds.prepared_directory("cifar10", ["test"], SHARED)
    source = tfds.builder_from_directory(str(directory)).as_data_source("test")
    for index in (0, 1234, 9999):
        np.testing.assert_array_equal(test.images[index], source[index]["image"])
        assert test.labels[index] == source[index]["label"]
