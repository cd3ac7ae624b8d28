"""Reading vision-transformer checkpoints: both layouts, and files that will not do."""

import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from vit_files import SMALL, hugging_face, npz_arrays

from lsam_jax.experiments.models.vit import ViT
from lsam_jax.experiments.models.vit_weights import load_vit

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture(scope="module")
def shapes():
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return jax.eval_shape(ViT(**SMALL).init, jax.random.key(0), images)["params"]["backbone"]


@pytest.fixture
def write(tmp_path):
    def write(arrays, suffix):
        file = tmp_path / f"small{suffix}"
        if suffix == ".npz":
            np.savez(file, **arrays)
        else:
            safetensors.save_file(arrays, file)
        return file

    return write


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_npz_gives_each_array_its_place(write, shapes):
    arrays = npz_arrays()
    tree = load_vit(write(arrays, ".npz"), shapes)
    assert jax.tree.structure(tree) == jax.tree.structure(shapes)
    for leaf, shape in zip(jax.tree.leaves(tree), jax.tree.leaves(shapes), strict=True):
        assert (type(leaf), leaf.dtype, leaf.shape) == (np.ndarray, np.float32, shape.shape)
    used = [k for k in arrays if not k.startswith(("head/", "pre_logits/"))]
    assert len(used) == len(jax.tree.leaves(tree))
    block = "Transformer/encoderblock_1"
    for ours, theirs in (
        (tree["patches"]["kernel"], "embedding/kernel"),
        (tree["class_token"], "cls"),
        (tree["positions"], "Transformer/posembed_input/pos_embedding"),
        (tree["norm"]["scale"], "Transformer/encoder_norm/scale"),
        (tree["block1"]["norm1"]["bias"], f"{block}/LayerNorm_0/bias"),
        (tree["block1"]["norm2"]["bias"], f"{block}/LayerNorm_2/bias"),
        (
            tree["block1"]["attention"]["key"]["kernel"],
            f"{block}/MultiHeadDotProductAttention_1/key/kernel",
        ),
        (tree["block1"]["mlp2"]["kernel"], f"{block}/MlpBlock_3/Dense_1/kernel"),
    ):
        np.testing.assert_array_equal(ours, arrays[theirs])


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_hugging_face_gives_the_same_weights(write, shapes, prefix):
    arrays = npz_arrays()
    expected = load_vit(write(arrays, ".npz"), shapes)
    tree = load_vit(str(write(hugging_face(arrays, prefix), ".safetensors")), shapes)
    assert_same(tree, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(write, shapes, dtype):
    arrays = npz_arrays()
    rounded = {key: array.astype(dtype) for key, array in arrays.items()}
    tree = load_vit(write(hugging_face(rounded), ".safetensors"), shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}
    back = {key: array.astype(np.float32) for key, array in rounded.items()}
    assert_same(tree, load_vit(write(back, ".npz"), shapes))


def test_a_file_that_is_not_there_is_named(tmp_path, shapes):
    with pytest.raises(FileNotFoundError, match=r"none\.npz does not exist; download"):
        load_vit(tmp_path / "none.npz", shapes)
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder; name the"):
        load_vit(tmp_path, shapes)
    with pytest.raises(
        ValueError, match=r"vit\.bin has the unknown extension '\.bin'; give a \.npz"
    ):
        load_vit(tmp_path / "vit.bin", shapes)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_damaged_file_is_named(write, shapes, suffix):
    arrays = npz_arrays() if suffix == ".npz" else hugging_face(npz_arrays())
    file = write(arrays, suffix)
    whole = file.read_bytes()
    cases = [b"", b"no checkpoint at all", whole[:100], whole[: len(whole) // 2], whole[:-9]]
    if suffix == ".npz":  # the other kind has no checksum
        middle, directory, end = len(whole) // 2, whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
        for start, changed in (
            (middle, bytes(40)),
            (directory + 8, b"\1"),  # says that the first array is encrypted
            (end + 16, b"\xff\xff\xff"),  # the directory's place
        ):
            cases.append(whole[:start] + changed + whole[start + len(changed) :])
    for damaged in cases:
        file.write_bytes(damaged)
        with pytest.raises(OSError, match=rf"small\{suffix} is damaged .*; download it again"):
            load_vit(file, shapes)


def test_pickled_objects_are_not_loaded(write, shapes):
    file = write({**npz_arrays(), "cls": np.array([{}])}, ".npz")
    with pytest.raises(OSError, match=r"small\.npz is damaged .*allow_pickle=False"):
        load_vit(file, shapes)


@pytest.mark.parametrize(
    ("suffix", "key", "first"),
    [
        (".npz", "Transformer/encoderblock_1/LayerNorm_2/bias", None),
        (".npz", None, "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/bias"),
        (".safetensors", "vit.embeddings.position_embeddings", None),
        (".safetensors", None, "encoder.layer.0.attention.attention.key.bias"),
    ],
)
def test_the_first_missing_array_is_named(write, shapes, suffix, key, first):
    if key is None:
        arrays, missing, blocks = {"w": np.ones(3)}, 38, 0
    else:
        arrays = npz_arrays() if suffix == ".npz" else hugging_face(npz_arrays())
        del arrays[key]
        missing, blocks = 1, 2
    message = (
        rf"small\{suffix} has no array '{key or first}' \({missing} of 38 are missing; "
        rf"it has {blocks} encoder blocks, the model 2\); give a ViT checkpoint"
    )
    with pytest.raises(ValueError, match=message):
        load_vit(write(arrays, suffix), shapes)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_another_depth_is_refused(write, shapes, suffix):
    block = {".npz": "Transformer/encoderblock_", ".safetensors": r"vit\.encoder\.layer\."}[suffix]

    def file(depth):
        arrays = npz_arrays(depth)
        return write(arrays if suffix == ".npz" else hugging_face(arrays), suffix)

    with pytest.raises(ValueError, match=rf"has no array '{block}1.*it has 1 .*, the model 2\)"):
        load_vit(file(1), shapes)
    message = rf"small\{suffix} has '{block}2', one of 12 encoder blocks; the model has 2; give"
    with pytest.raises(ValueError, match=message):
        load_vit(file(12), shapes)


@pytest.mark.parametrize(
    ("suffix", "key", "stored", "needed"),
    [
        (".npz", "Transformer/posembed_input/pos_embedding", (1, 10, 16), (1, 5, 16)),
        (
            ".npz",
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
            (16, 4, 4),
            (16, 2, 8),
        ),
        (".safetensors", "vit.encoder.layer.0.intermediate.dense.weight", (16, 64), (64, 16)),
        (
            ".safetensors",
            "vit.embeddings.patch_embeddings.projection.weight",
            (16, 3, 2, 2),
            (16, 3, 4, 4),
        ),
        (".safetensors", "vit.encoder.layer.1.attention.output.dense.weight", (256,), (16, 16)),
    ],
)
def test_another_shape_is_refused_with_both(write, shapes, suffix, key, stored, needed):
    arrays = npz_arrays() if suffix == ".npz" else hugging_face(npz_arrays())
    arrays[key] = np.zeros(stored, np.float32)
    with pytest.raises(ValueError) as caught:
        load_vit(write(arrays, suffix), shapes)
    message = f"small{suffix}: '{key}' has shape {stored}, the model needs {needed}; give a ViT"
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int8, np.complex64])
def test_arrays_must_be_floating_point(write, shapes, dtype):
    arrays = npz_arrays()
    arrays["embedding/bias"] = arrays["embedding/bias"].astype(dtype)
    message = rf"small\.npz: 'embedding/bias' has dtype {np.dtype(dtype)}; give"
    with pytest.raises(ValueError, match=message):
        load_vit(write(arrays, ".npz"), shapes)


def test_without_safetensors_its_absence_shows(write, shapes, monkeypatch):
    file = write(hugging_face(npz_arrays()), ".safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.numpy")
    with pytest.raises(ModuleNotFoundError) as caught:
        load_vit(file, shapes)
    assert caught.value.name.partition(".")[0] == "safetensors"
    load_vit(write(npz_arrays(), ".npz"), shapes)  # does not need it
