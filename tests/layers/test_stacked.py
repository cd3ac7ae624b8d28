"""Models that scan over stacked layers: each slice is a layer, and the scan is split at the cut."""

import functools

import jax
import numpy as np
import optax
import pytest
import scanned
import textbook
from refusals import refused
from training import LR, MOMENTUM, RHO, SINGLE, assert_same, train

import lsam_jax as lsam

LAYERS = lsam.stacked("blocks")
BLOCKS = lsam.stacked("blocks", layers="slice")
K = 2
SWITCHED = ("plain", "remat", "backward", "two", "linen_remat")
CORE = ("plain", "remat", "keys", "linen_remat")


def assert_trains_like_textbook(case, tx, choose, alpha, normalize, layers=LAYERS, layer_of=None):
    names = lsam.layer_names(case.params, layers)
    gradient = scanned.textbook_gradient(case.loss)
    params, norms = scanned.slices(case.params), dict.fromkeys(names, 0.0)
    descend = textbook.Momentum(LR, MOMENTUM)
    for batch, got in zip(case.batches, train(case, tx), strict=True):
        reported = {name for name, chosen in zip(names, got.state.selected, strict=True) if chosen}
        chosen = choose(norms)
        assert reported == chosen
        want = textbook.step(gradient, params, batch, chosen, RHO, alpha, normalize, layer_of)
        like = scanned.slices(got.grads)
        params, norms = descend(params, want.direction), want.norms
        assert_same(got.loss, want.loss)
        assert_same(got.aux, want.aux)
        assert_same(like, textbook.unnamed(want.direction, like))
        assert_same(scanned.slices(got.params), params)
        assert_same(got.state.norms, np.float32([norms[name] for name in names]))
        assert abs(got.state.sharpness - want.sharpness) <= SINGLE * abs(want.loss)


MODELS = [pytest.param(m, marks=[pytest.mark.core] * (m in CORE)) for m in scanned.MODELS]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_fixed_slices_equal_the_textbook(x64, model):
    """A kernel in the middle of the first and of the last block; nothing in between."""
    case = scanned.build(model)
    chosen = {case.order[n] for n in (2, -2, -1)}
    tx = lsam.layerwise_sam(
        None, RHO, 0.8, layers=LAYERS, selection=list(chosen), normalize="layer"
    )
    assert_trains_like_textbook(case, tx, lambda norms: chosen, 0.8, "layer")


@pytest.mark.slow
@pytest.mark.parametrize("model", SWITCHED)
def test_slices_chosen_by_norm_equal_the_textbook(x64, model):
    case = scanned.build(model)
    cuts = [case.order[n] for n in (2, -3)]
    tx = lsam.layerwise_sam(K, RHO, 0.8, layers=LAYERS, normalize=True, cuts=cuts)

    def choose(norms):
        return textbook.choose(norms, K, case.order)

    assert_trains_like_textbook(case, tx, choose, 0.8, True)


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["high", "all"])
def test_whole_blocks_equal_the_textbook(x64, selection):
    case = scanned.build("plain")
    paths = textbook.named(scanned.slices(case.params))
    layer_of = {p: "/".join(p.split("/")[:2]) if "blocks" in p else p for p in paths}
    order = ("in", *(f"blocks/{i}" for i in range(scanned.DEPTH)), "a_head")
    k = None if selection == "all" else K
    tx = lsam.layerwise_sam(k, RHO, 0.8, layers=BLOCKS, selection=selection, cuts=2)

    def choose(norms):
        if selection == "all":
            return set(order)
        return textbook.choose(norms, K, order)

    assert_trains_like_textbook(case, tx, choose, 0.8, False, BLOCKS, layer_of)


METHODS = {
    "look_sam": lambda layers: lsam.look_sam(RHO, every=2, k=3, selection="high", layers=layers),
    "momentum_sam": lambda layers: lsam.momentum_sam(RHO, layers=layers),
    "ae_sam": lambda layers: lsam.ae_sam(RHO, layers=layers),
    "stale": lambda layers: lsam.with_parts(
        lsam.layerwise_sam(3, RHO, layers=layers), ascent=lsam.stale(0.5)
    ),
    "late": lambda layers: lsam.with_parts(lsam.sam(RHO, layers=layers), when=lsam.between(2, 4)),
    "f_sam": lambda layers: lsam.f_sam(RHO, layers=layers),
    "zsharp": lambda layers: lsam.zsharp(RHO, 0.3, layers=layers),
    "radii": lambda layers: lsam.layerwise_sam(
        5, lsam.per_layer(lambda name: RHO * (1 + len(name) % 3 + 2 * ("1" in name))), layers=layers
    ),
    "asam": lambda layers: lsam.asam(
        RHO, k=5, selection="high", scaled=lambda path: "2" in path, layers=layers
    ),
    "stable_sam": lambda layers: lsam.stable_sam(RHO, k=3, selection="high", layers=layers),
    "gsam": lambda layers: lsam.gsam(RHO, k=2, selection="high", layers=layers),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_methods_do_what_they_do_on_a_list_of_blocks(x64, method):
    case = scanned.build("plain")

    def listed(params, batch):
        return case.loss(scanned.stacks(params), batch)

    of_list = case._replace(params=scanned.slices(case.params), loss=listed)
    layers = {"look_sam": "kernel", "gsam": "kernel", "stale": "kernel"}.get(method, "array")
    make = METHODS[method]
    pairs = zip(
        train(case, make(lsam.stacked("blocks", layers))), train(of_list, make(layers)), strict=True
    )
    for got, want in pairs:
        assert_same(got.loss, want.loss)
        assert_same(scanned.slices(got.grads), want.grads)
        assert_same(scanned.slices(got.params), want.params)
    like = jax.tree.map(np.shape, case.params)
    memory = got.state.memory
    if method == "momentum_sam":  # it is a tree like the parameters
        assert jax.tree.map(np.shape, memory.ascent) == like


@pytest.mark.slow
def test_memory_of_slices(x64):
    """A mask over single weights, and gradients from a function."""
    case = scanned.build("plain")
    tx = lsam.sparse_sam(RHO, 0.5, layers=LAYERS)
    state = tx.init(case.params)
    assert state.memory.perturbation.moves["blocks"]["up"].shape == (3, 6, 8)
    assert state.memory.perturbation.moves["blocks"]["scale"] == ()
    scores = jax.tree.map(np.square, case.params)
    kernels = [np.ravel(scores["blocks"][n]) for n in ("up", "down")]
    kernels = np.sort(np.concatenate([*kernels, *(np.ravel(scores[n]) for n in ("in", "a_head"))]))
    moves = lsam.refresh_mask(tx, state, scores).memory.perturbation.moves
    half = kernels[len(kernels) // 2]
    assert np.array_equal(moves["blocks"]["up"], scores["blocks"]["up"] >= half)


@pytest.mark.slow
def test_a_gradient_function_gives_the_same(x64):
    case = scanned.build("remat")
    tx = lsam.layerwise_sam(
        None, RHO, 0.8, layers=LAYERS, selection=["blocks/1/up", "a_head"], normalize=True
    )
    batch = case.batches[0]
    state = tx.init(case.params)

    def loss(params):
        return case.loss(params, batch)[0]

    gradient = jax.grad(loss)
    value_fn = jax.jit(functools.partial(tx.update, value_fn=loss))
    grad_fn = jax.jit(functools.partial(tx.update, grad_fn=gradient))
    want, new = value_fn(None, state, case.params)
    got, newer = grad_fn(gradient(case.params), state, case.params)
    assert_same(got, want)
    assert_same(newer.norms, new.norms)


def test_inactive_slices_stay(x64):
    """One slice of an array has a gradient; the others keep value and moments."""
    case = scanned.build("plain")
    base = lsam.freeze_inactive(optax.adamw(1e-2), stacks=lsam.stacked("blocks"))
    state = base.init(case.params)
    grads = jax.tree.map(np.zeros_like, case.params)
    grads["blocks"]["up"][1] = 1.0
    updates, state = jax.jit(base.update)(grads, state, case.params)
    moved = np.any(np.asarray(updates["blocks"]["up"]) != 0, axis=(1, 2))
    assert moved.tolist() == [False, True, False]
    counts = {path: int(s[0].count) for path, s in state.by_array.items()}
    assert {path for path, count in counts.items() if count} == {"blocks/1/up"}


@pytest.mark.slow
@pytest.mark.parametrize("model", [m for m in MODELS if "used_otherwise" not in m.values])
def test_order_is_that_of_the_scan(x64, model):
    case = scanned.build(model)
    report = lsam.inspect(case.loss, case.params, case.batches[0], layers=LAYERS)
    assert tuple(row.name for row in report.layers) == case.order
    assert not report.scanned
    assert "stacked" not in str(report)


def test_names_are_those_of_a_list_of_blocks(x64):
    for model in ("plain", "linen"):
        params = scanned.build(model).params
        listed = scanned.slices(params)
        for layers in ("kernel", "array", "module", "norm", lambda p: p if "up" in p else None):
            if layers == "norm" and model == "plain":
                continue
            if callable(layers) and model == "linen":
                continue
            want = lsam.layer_names(listed, layers)
            assert sorted(lsam.layer_names(params, lsam.stacked("blocks", layers))) == sorted(want)
    assert lsam.layer_names(params, BLOCKS) == ("a_head", *(f"blocks/{i}" for i in range(3)), "in")
    own = lsam.layer_names(params, lsam.stacked("kernel$", [("blocks", r"\g<0>")]))
    assert own == ("blocks",)


def test_inspect_names_arrays_that_a_scan_runs_over(x64):
    case = scanned.build("cast")
    report = lsam.inspect(case.loss, case.params, case.batches[0])
    assert set(report.scanned) == {f"blocks/{part}" for part in ("up", "down", "scale")}
    last = str(report).splitlines()[-1]
    assert all(path in last for path in (*report.scanned, "lsam.stacked"))


ERRORS = [
    (lambda: lsam.stacked(3), TypeError, ["pattern", "3"]),
    (lambda: lsam.stacked("("), ValueError, ["pattern='('", "regex"]),
    (lambda: lsam.stacked("a", lsam.stacked("b")), ValueError, ["stacked", "encoder|decoder"]),
    (lambda: names("block_"), ValueError, ["pattern='block_'", "no array", "blocks/w"]),
    (lambda: names("blocks|scale"), ValueError, ["'scale'", "scalar"]),
    (lambda: names("blocks|none"), ValueError, ["'none'", "empty"]),
    (lambda: names("b"), ValueError, ["'blocks/v'", "2 slices", "'blocks/w'", "3"]),
    (lambda: names("blocks/w", "kernels"), ValueError, ["layers", "'kernels'"]),
]


def names(pattern, layers="kernel"):
    blocks = {"w": np.ones((3, 2, 2)), "v": np.ones((2, 2, 2))}
    params = {"blocks": blocks, "scale": np.ones(()), "none": np.ones((0, 2))}
    if pattern in ("blocks|scale", "blocks|none"):
        del blocks["v"]
    return lsam.layer_names(params, lsam.stacked(pattern, layers))


@pytest.mark.parametrize(("wrong", "kind", "words"), ERRORS, ids=range(len(ERRORS)))
def test_bad_declarations(wrong, kind, words):
    with refused(kind, *words):
        wrong()
