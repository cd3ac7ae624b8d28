"""Reads published vision-transformer weights from a local file into the tree of `vit.ViT`.

Two layouts are known, told apart by the file's extension:

1. ``.npz`` of the original `vision_transformer
   <https://github.com/google-research/vision_transformer>`_ release. Arrays have the shapes of
   ours.
2. ``.safetensors`` of Hugging Face's ``ViTModel`` and ``ViTForImageClassification``. Matrices are
   [out, in], the patch kernel is [out, in, height, width], and heads are not split: their number
   cannot be checked against the file.

Classifier, pooler and mask token of a file are left where they are. Nothing is unpickled.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lsam_jax.experiments.files import PathLike

Shape = tuple[int, ...]


class Source(NamedTuple):
    """Where an array of ours stands in a file.

    Attributes:
        key: Its name there.
        shape: Its shape there.
        transposed: Order of its axes there that gives ours, up to how heads are split.
    """

    key: str
    shape: Shape
    transposed: Shape


class Layout(NamedTuple):
    """How a kind of file names and shapes what ours is.

    Attributes:
        names: Our module, or array that is not in one, to theirs; of a block, without its index.
        block: What stands before the index of a block.
        prefix: What all names may have in front.
        source: Path in our tree split at ``/``, their name of all but its end, and the shape of
            ours, to what is in the file.
    """

    names: Mapping[str, str]
    block: str
    prefix: str
    source: Callable[[list[str], str, Shape], Source]


def _npz_source(path: list[str], name: str, shape: Shape) -> Source:
    key = name if len(path) == 1 else f"{name}/{path[-1]}"
    return Source(key, shape, tuple(range(len(shape))))


def _hugging_face_source(path: list[str], name: str, shape: Shape) -> Source:
    if len(path) == 1:
        return Source(name, shape, tuple(range(len(shape))))
    if path[-1] != "kernel":
        kind = "weight" if path[-1] == "scale" else "bias"
        return Source(f"{name}.{kind}", (math.prod(shape),), (0,))
    if path[0] == "patches":
        height, width, inputs, outputs = shape
        return Source(f"{name}.weight", (outputs, inputs, height, width), (2, 3, 1, 0))
    inputs = shape[0] if path[-2] in ("query", "key", "value") else math.prod(shape[:-1])
    return Source(f"{name}.weight", (math.prod(shape) // inputs, inputs), (1, 0))


_NAMES = """
patches          embedding                                embeddings.patch_embeddings.projection
class_token      cls                                      embeddings.cls_token
positions        Transformer/posembed_input/pos_embedding embeddings.position_embeddings
norm1            /LayerNorm_0                             .layernorm_before
attention/query  /MultiHeadDotProductAttention_1/query    .attention.attention.query
attention/key    /MultiHeadDotProductAttention_1/key      .attention.attention.key
attention/value  /MultiHeadDotProductAttention_1/value    .attention.attention.value
attention/out    /MultiHeadDotProductAttention_1/out      .attention.output.dense
norm2            /LayerNorm_2                             .layernorm_after
mlp1             /MlpBlock_3/Dense_0                      .intermediate.dense
mlp2             /MlpBlock_3/Dense_1                      .output.dense
norm             Transformer/encoder_norm                 layernorm
"""
_OURS, _NPZ, _HUGGING_FACE = zip(
    *(line.split() for line in _NAMES.split("\n") if line), strict=True
)
NPZ = Layout(dict(zip(_OURS, _NPZ)), "Transformer/encoderblock_", "", _npz_source)
HUGGING_FACE = Layout(
    dict(zip(_OURS, _HUGGING_FACE)), "encoder.layer.", "vit.", _hugging_face_source
)


def load_vit(path: PathLike, backbone_shapes: Any) -> Any:
    """The weights of a file as the parameters called ``backbone`` of a `vit.ViT`.

    Args:
        path: A ``.npz`` or ``.safetensors`` file, see the module's text.
        backbone_shapes: Tree of arrays or `jax.ShapeDtypeStruct`, such as
            ``jax.eval_shape(model.init, key, images)["params"]["backbone"]``.

    Returns:
        A tree of the same structure with float32 NumPy arrays; half precision is widened.

    Raises:
        OSError: When there is no such file, or it is damaged.
        ValueError: When it is not a known kind of file, or its weights are not of this model.
        ModuleNotFoundError: Without safetensors, for a ``.safetensors`` file.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the checkpoint file in it")
    if path.suffix not in KINDS:
        raise ValueError(
            f"{path} has the unknown extension {path.suffix!r}; give a .npz file of the "
            "vision_transformer release or a .safetensors file of a Hugging Face ViT"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; download the pretrained weights, which lsam_jax does not do, "
            "and give the path of the file"
        )
    read, layout = KINDS[path.suffix]
    arrays = read(path)
    targets = {path: x.shape for path, x in flatten_dict(backbone_shapes, sep="/").items()}
    prefix = layout.prefix if any(key.startswith(layout.prefix) for key in arrays) else ""
    sources = [_source(layout, prefix, name, shape) for name, shape in targets.items()]
    _check(path, arrays, sources, re.escape(prefix + layout.block) + r"\d+")
    found = {
        path: arrays[source.key].astype(np.float32).transpose(source.transposed).reshape(shape)
        for source, (path, shape) in zip(sources, targets.items(), strict=True)
    }
    return unflatten_dict(found, sep="/")


def _source(layout: Layout, prefix: str, name: str, shape: Shape) -> Source:
    path = name.split("/")
    module = name if len(path) == 1 else "/".join(path[:-1])
    block = re.fullmatch(r"block(\d+)/(.+)", module)
    if block is None:
        theirs = layout.names[module]
    else:
        theirs = layout.block + block[1] + layout.names[block[2]]
    return layout.source(path, prefix + theirs, shape)


def _check(path: Path, arrays: Mapping[str, np.ndarray], sources: list[Source], block: str) -> None:
    """Raises a ValueError unless the file has what is asked for, and not more blocks."""
    way_out = "give a ViT checkpoint of the model's patch_size, image_size, width and depth"

    def blocks(keys: Any) -> set[str]:
        return {match[0] for key in keys if (match := re.match(block, key))}

    keys = [source.key for source in sources]
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise ValueError(
            f"{path} has no array {missing[0]!r} ({len(missing)} of {len(keys)} are missing; it "
            f"has {len(blocks(arrays))} encoder blocks, the model {len(blocks(keys))}); {way_out}"
        )
    extra = sorted(blocks(arrays) - blocks(keys), key=lambda name: (len(name), name))
    if extra:
        raise ValueError(
            f"{path} has {extra[0]!r}, one of {len(blocks(arrays))} encoder blocks; the model has "
            f"{len(blocks(keys))}; {way_out}"
        )
    for source in sources:
        array = arrays[source.key]
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{path}: {source.key!r} has dtype {array.dtype}; give a checkpoint in floating "
                "point"
            )
        if array.shape != source.shape:
            raise ValueError(
                f"{path}: {source.key!r} has shape {array.shape}, the model needs {source.shape}; "
                f"{way_out}"
            )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    damage = (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,  # a place before the file's start
        RuntimeError,  # a mark that a damaged byte can set, such as encryption
        ValueError,
    )
    with path.open("rb") as file:
        try:
            zipfile.ZipFile(file).close()  # NumPy would take what is no archive for a pickle
            file.seek(0)
            return dict(np.load(file, allow_pickle=False))
        except damage as error:
            raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors.numpy  # noqa: PLC0415 (only this kind of file needs it)

    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> OSError:
    return OSError(f"{path} is damaged or not what its extension says: {error}; download it again")


KINDS: Mapping[str, tuple[Callable[[Path], dict[str, np.ndarray]], Layout]] = {
    ".npz": (_read_npz, NPZ),
    ".safetensors": (_read_safetensors, HUGGING_FACE),
}
"""What to do with a file, by its extension."""
