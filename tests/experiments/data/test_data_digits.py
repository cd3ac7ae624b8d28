"""The digits: scikit-learn's images, written by TFDS once, by one process."""

import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data import digits as data_digits


@pytest.fixture
def counted(monkeypatch):
    """How often the digits were written, without a network."""
    calls = []
    write = data_digits._write

    def counting(data_dir):
        calls.append(data_dir)
        write(data_dir)

    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(data_digits, "_write", counting)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return calls


def contents(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.glob("*/*"))


def test_digits_are_those_of_scikit_learn_in_two_parts(tmp_path):
    digits = datasets.load("digits", tmp_path)
    bunch = load_digits()
    train, validation = train_test_split(
        np.arange(1797), test_size=597, random_state=0, stratify=bunch.target
    )
    for split, chosen in ((digits.train, train), (digits.validation, validation)):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images[..., 0], bunch.images[chosen])
        np.testing.assert_array_equal(split.labels, bunch.target[chosen])
    assert np.bincount(digits.validation.labels).min() >= 57  # every class has its share
    assert digits.num_classes == 10
    assert digits.train.images.shape == (1200, 8, 8, 1)
    pixels = np.asarray(datasets.normalise(digits.train.images, digits.mean, digits.std))
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std() - 1) < 1e-5


def test_they_are_written_once_quietly_and_read_afterwards(tmp_path, counted, capfd, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    datasets.load("digits")
    assert contents(tmp_path) == ["digits/2.0.0"]
    datasets.load("digits", tmp_path)
    assert len(counted) == 1
    assert capfd.readouterr() == ("", "")


def test_tfds_reads_them_by_name(tmp_path):
    data_digits.prepare(tmp_path)
    source = tfds.data_source("digits", split="train", data_dir=tmp_path, download=False)
    np.testing.assert_array_equal(source[5]["image"], datasets.digits(tmp_path).train.images[5])


def test_who_is_second_takes_what_the_first_has_written(tmp_path, counted, monkeypatch):
    write = data_digits._write

    def overtaken(data_dir):
        write(data_dir)
        if len(counted) == 1:
            data_digits.prepare(tmp_path)  # another process, from start to end

    monkeypatch.setattr(data_digits, "_write", overtaken)
    digits = datasets.load("digits", tmp_path)
    assert len(counted) == 2
    assert digits.train.images.shape == (1200, 8, 8, 1)
    assert contents(tmp_path) == ["digits/2.0.0"]


def test_a_place_that_cannot_be_written_is_named(tmp_path, counted):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "data"
    with pytest.raises(OSError, match=rf"data='digits' cannot .* in {place}: .*give a data_dir"):
        datasets.load("digits", place)
    assert not counted


def test_a_broken_rest_is_named_and_left_alone(tmp_path):
    rest = tmp_path / "digits" / "2.0.0"
    rest.mkdir(parents=True)
    (rest / "digits-train.array_record-00000-of-00001").write_text("half")
    with pytest.raises(OSError, match=rf"not empty.*delete {rest}"):
        datasets.load("digits", tmp_path)
    assert contents(tmp_path) == ["digits/2.0.0"]
    assert len(list(rest.iterdir())) == 1


def test_hyper_parameters_are_chosen_on_training_images(small):
    part = datasets.hold_out(small, 30)
    np.testing.assert_array_equal(part.train.images, small.train.images[:100])
    np.testing.assert_array_equal(part.train.labels, small.train.labels[:100])
    np.testing.assert_array_equal(part.validation.images, small.train.images[100:])
    np.testing.assert_array_equal(part.validation.labels, small.train.labels[100:])
    assert part.mean == small.mean
    for images in (0, 130, -1):
        with pytest.raises(ValueError, match=f"images={images} must lie between 1 and 129"):
            datasets.hold_out(small, images)


def test_what_an_earlier_version_wrote_is_not_read(tmp_path, counted, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(data_digits.Digits, "VERSION", tfds.core.Version("1.0.0"))
        before.setattr(data_digits, "HELD_OUT", 899)
        data_digits.prepare(tmp_path)
    assert datasets.load("digits", tmp_path).train.images.shape == (1200, 8, 8, 1)
    assert contents(tmp_path) == ["digits/1.0.0", "digits/2.0.0"]
    assert len(counted) == 2
