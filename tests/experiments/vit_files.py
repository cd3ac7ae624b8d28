"""Small checkpoints in both published layouts, and a forward pass written from their names.

Nothing here is imported from lsam_jax.
"""

import math

import numpy as np

SMALL = {
    "patch_size": 4,
    "image_size": 8,
    "width": 16,
    "depth": 2,
    "heads": 2,
}
PATCH, WIDTH, HEADS, MLP = 4, 16, 2, 64
TOKENS = 5


def npz_arrays(depth=2, seed=0):
    """Random weights, all different from what a new network starts with."""
    random = np.random.default_rng(seed)
    arrays = {}

    def put(name, *shape, mean=0.0, scale=0.3):
        arrays[name] = (mean + scale * random.standard_normal(shape)).astype(np.float32)

    def norm(name):
        put(f"{name}/scale", WIDTH, mean=1.0)
        put(f"{name}/bias", WIDTH)

    put("cls", 1, 1, WIDTH)
    put("embedding/kernel", PATCH, PATCH, 3, WIDTH)
    put("embedding/bias", WIDTH)
    put("Transformer/posembed_input/pos_embedding", 1, TOKENS, WIDTH)
    for index in range(depth):
        block = f"Transformer/encoderblock_{index}"
        norm(f"{block}/LayerNorm_0")
        for part in ("query", "key", "value"):
            put(
                f"{block}/MultiHeadDotProductAttention_1/{part}/kernel",
                WIDTH,
                HEADS,
                WIDTH // HEADS,
            )
            put(f"{block}/MultiHeadDotProductAttention_1/{part}/bias", HEADS, WIDTH // HEADS)
        put(f"{block}/MultiHeadDotProductAttention_1/out/kernel", HEADS, WIDTH // HEADS, WIDTH)
        put(f"{block}/MultiHeadDotProductAttention_1/out/bias", WIDTH)
        norm(f"{block}/LayerNorm_2")
        put(f"{block}/MlpBlock_3/Dense_0/kernel", WIDTH, MLP)
        put(f"{block}/MlpBlock_3/Dense_0/bias", MLP)
        put(f"{block}/MlpBlock_3/Dense_1/kernel", MLP, WIDTH)
        put(f"{block}/MlpBlock_3/Dense_1/bias", WIDTH)
    norm("Transformer/encoder_norm")
    put("pre_logits/kernel", WIDTH, WIDTH)
    put("pre_logits/bias", WIDTH)
    put("head/kernel", WIDTH, 10)
    put("head/bias", 10)
    return arrays


def hugging_face(npz, prefix="vit."):
    """The same weights as PyTorch stores them."""
    depth = sum(name.endswith("LayerNorm_0/scale") for name in npz)
    arrays = {
        "embeddings.cls_token": npz["cls"],
        "embeddings.position_embeddings": npz["Transformer/posembed_input/pos_embedding"],
        "embeddings.patch_embeddings.projection.weight": np.einsum(
            "hwio->oihw", npz["embedding/kernel"]
        ),
        "embeddings.patch_embeddings.projection.bias": npz["embedding/bias"],
        "embeddings.mask_token": np.zeros((1, 1, WIDTH), np.float32),
        "layernorm.weight": npz["Transformer/encoder_norm/scale"],
        "layernorm.bias": npz["Transformer/encoder_norm/bias"],
    }
    for index in range(depth):
        old, new = f"Transformer/encoderblock_{index}", f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            theirs = f"{old}/MultiHeadDotProductAttention_1/{part}"
            ours = f"{new}.attention.attention.{part}"
            arrays[f"{ours}.weight"] = npz[f"{theirs}/kernel"].reshape(WIDTH, WIDTH).T
            arrays[f"{ours}.bias"] = npz[f"{theirs}/bias"].reshape(WIDTH)
        out = npz[f"{old}/MultiHeadDotProductAttention_1/out/kernel"]
        arrays[f"{new}.attention.output.dense.weight"] = out.reshape(WIDTH, WIDTH).T
        arrays[f"{new}.attention.output.dense.bias"] = npz[
            f"{old}/MultiHeadDotProductAttention_1/out/bias"
        ]
        for theirs, ours in (("LayerNorm_0", "before"), ("LayerNorm_2", "after")):
            arrays[f"{new}.layernorm_{ours}.weight"] = npz[f"{old}/{theirs}/scale"]
            arrays[f"{new}.layernorm_{ours}.bias"] = npz[f"{old}/{theirs}/bias"]
        for theirs, ours in (("Dense_0", "intermediate"), ("Dense_1", "output")):
            arrays[f"{new}.{ours}.dense.weight"] = npz[f"{old}/MlpBlock_3/{theirs}/kernel"].T
            arrays[f"{new}.{ours}.dense.bias"] = npz[f"{old}/MlpBlock_3/{theirs}/bias"]
    arrays = {prefix + name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return {
        **arrays,
        "classifier.weight": np.zeros((10, WIDTH), np.float32),
        "classifier.bias": np.zeros(10, np.float32),
        "pooler.dense.weight": np.zeros((WIDTH, WIDTH), np.float32),
    }


def features(npz, images):
    """The class token after the last normalisation, in double precision."""
    w = {name: array.astype(np.float64) for name, array in npz.items()}
    depth = sum(name.endswith("LayerNorm_0/scale") for name in w)
    return np.stack([_one(w, depth, np.float64(image)) for image in images])


def _one(w, depth, image):
    rows, columns = image.shape[0] // PATCH, image.shape[1] // PATCH
    tokens = [w["cls"][0, 0]]
    for i in range(rows):
        for j in range(columns):
            patch = image[i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH]
            tokens.append(np.tensordot(patch, w["embedding/kernel"], 3) + w["embedding/bias"])
    x = np.stack(tokens) + w["Transformer/posembed_input/pos_embedding"][0]
    for index in range(depth):
        block = f"Transformer/encoderblock_{index}"
        x = x + _attention(
            w, f"{block}/MultiHeadDotProductAttention_1", _norm(w, f"{block}/LayerNorm_0", x)
        )
        x = x + _mlp(w, f"{block}/MlpBlock_3", _norm(w, f"{block}/LayerNorm_2", x))
    return _norm(w, "Transformer/encoder_norm", x)[0]


def _norm(w, name, x):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-6)
    return centred / deviation * w[f"{name}/scale"] + w[f"{name}/bias"]


def _attention(w, name, x):
    total = w[f"{name}/out/bias"]
    for head in range(HEADS):
        q, k, v = (
            x @ w[f"{name}/{part}/kernel"][:, head] + w[f"{name}/{part}/bias"][head]
            for part in ("query", "key", "value")
        )
        scores = np.exp(q @ k.T / math.sqrt(WIDTH // HEADS))
        scores /= scores.sum(-1, keepdims=True)
        total = total + scores @ v @ w[f"{name}/out/kernel"][head]
    return total


def _mlp(w, name, x):
    y = x @ w[f"{name}/Dense_0/kernel"] + w[f"{name}/Dense_0/bias"]
    y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
    return y @ w[f"{name}/Dense_1/kernel"] + w[f"{name}/Dense_1/bias"]
