"""Leaves are arrays, or pieces of stacked ones; what is said of layers is the same for any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam
from lsam_jax.layers.partition import partition

DEPTH = 4


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"up": (DEPTH, 2, 3), "down": (DEPTH, 3, 2), "bias": (DEPTH, 3)}
    blocks = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return {"blocks": blocks, "head": jnp.asarray(rng.normal(size=(2, 2)))}


def cuts(layers):
    """The same layers: as long pieces as may be, in two, in three, row by row."""
    yield layers
    for rows in ([3], [1, 2]):
        yield layers.cut(np.array([any(f"/{n}" in name for n in rows) for name in layers.names]))
    yield layers.apart()


@pytest.mark.parametrize("rule", ["kernel", "array", "slice", "module"])
def test_cuts_agree(x64, rule):
    params = parameters()
    layers = partition(params, lsam.stacked("blocks", rule))
    slices = {"head": [params["head"]]} | {
        f"blocks/{n}/{name}": [x[n]] for name, x in params["blocks"].items() for n in range(DEPTH)
    }
    if rule in ("slice", "module"):
        each = [[x[n] for x in params["blocks"].values()] for n in range(DEPTH)]
        slices = {"head": [params["head"]]} | {f"blocks/{n}": x for n, x in enumerate(each)}
    norms = [np.sqrt(sum(np.sum(x**2) for x in slices[name])) for name in layers.names]
    sizes = [sum(x.size for x in slices[name]) for name in layers.names]
    counts = []
    for cut in cuts(layers):
        leaves = cut.leaves(params)
        counts.append(len(leaves))
        assert len(leaves) == len(cut.of_leaf) == len(cut.paths) == len(cut.stacked)
        assert jax.tree.all(jax.tree.map(np.array_equal, cut.tree(leaves), params))
        np.testing.assert_allclose(cut.norms(leaves), norms, rtol=1e-6)
        assert cut.sizes(leaves).tolist() == sizes
        assert sum(cut.paths, ()) == sum(layers.paths, ())
    more = 2 if rule == "kernel" else 3  # arrays of layers among the stacked ones
    assert counts == [4, 4 + more, 4 + 2 * more, 1 + 3 * DEPTH]


def test_draws_are_the_same_however_arrays_are_cut():
    params = parameters()
    layers = partition(params, lsam.stacked("blocks"))

    def drawn(cut):
        leaves = enumerate(cut.leaves(params))
        draws = [cut.draw(n, x, jax.random.normal, jax.random.key(3)) for n, x in leaves]
        return jax.tree.leaves(cut.tree(draws))

    want = drawn(layers.apart())
    assert len({float(x.sum()) for x in want}) == len(want)
    for cut in cuts(layers):
        assert all(map(np.array_equal, drawn(cut), want))


def in_pairs(path):
    return f"pair{int(path[7]) // 2}" if path.endswith("up") else None


REVERSED = [(f"{DEPTH - 1 - n}/down", str(n)) for n in range(DEPTH)]
RULES = {
    "one layer of all rows": ([("blocks/./up", "up")], {"up": 1}),
    "rows in pairs": (in_pairs, {"up": DEPTH}),
    "the rows of two arrays in two orders": (
        [(r"(\d)/up", r"\1"), *REVERSED],
        {"up": DEPTH, "down": DEPTH},
    ),
    "some rows": (lambda p: p if p in ("blocks/1/up", "blocks/2/up") else None, {"up": 3}),
}


@pytest.mark.parametrize("name", RULES)
def test_rows_stay_together_where_layers_go_side_by_side(name):
    rule, pieces = RULES[name]
    layers = partition(parameters(), lsam.stacked("blocks", rule))
    arrays = ["bias", "down", "up", "head"]
    found = {array: len(of) for array, of in zip(arrays, layers.pieces, strict=True)}
    assert {array: found[array] for array in pieces} == pieces
