"""The example that fine-tunes a language model: the model, its steps and prices, once around."""

import json
import math
import pathlib
import sysconfig
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import flops
from matplotlib.image import imread
from scripts import script

import lsam_jax as lsam
from lsam_jax import components
from lsam_jax.components import combination

example = script("examples/finetune")
TINY = example.Transformer(blocks=2, width=8, heads=2, context=8)
METHODS = example.methods(1e-2)
TEXT, RECORD = example.code(["heapq"])


def batches(seed):
    return example.batches(TEXT, example.FINETUNING, seed, TINY.context)


@pytest.fixture(scope="module")
def params():
    return TINY.init(jax.random.key(0))


@pytest.fixture(scope="module")
def windows():
    return next(batches(0))


def test_text_is_told_by_its_digest_and_held_out():
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    assert TEXT.tobytes().decode() == (library / "heapq.py").read_text()
    assert RECORD["bytes"] == len(TEXT)
    assert RECORD["sha256"] != example.code(["cmd"])[1]["sha256"]
    assert not set(example.TRAINING) & set(example.VALIDATION)


def test_windows_are_pieces_of_the_text(windows):
    pieces = np.lib.stride_tricks.sliding_window_view(TEXT, TINY.context + 1)
    assert all((pieces == window).all(axis=1).any() for window in windows)
    assert (next(batches(0)) == windows).all() and (next(batches(1)) != windows).any()


@pytest.mark.slow
def test_later_bytes_do_not_change_earlier_logits(params, windows):
    tokens = windows[:, :-1]
    changed = tokens.copy()
    changed[:, 5] = 255 - changed[:, 5]
    before, after = jax.jit(TINY.logits)(params, tokens), jax.jit(TINY.logits)(params, changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (jnp.abs(before - after)[:, 5:].max((0, 2)) > 1e-3).all()  # all that see it


def norm_in_numpy(p, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def logits_in_numpy(model, params, tokens):
    """One sequence, one head, one query after the other."""
    x = params["embedding"][tokens] + params["position"][: len(tokens)]
    size = model.width // model.heads
    for i in range(model.blocks):
        p = jax.tree.map(lambda w, i=i: w[i], params["blocks"])
        q, k, v = np.split(norm_in_numpy(p["norm1"], x) @ p["qkv"], 3, axis=-1)
        mixed = np.zeros_like(x)
        for head in range(model.heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(len(tokens)):
                weights = np.exp(k[: t + 1, part] @ q[t, part] / math.sqrt(size))
                mixed[t, part] = weights @ v[: t + 1, part] / weights.sum()
        x = x + mixed @ p["out"]
        h = norm_in_numpy(p["norm2"], x) @ p["up"]
        h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))  # gelu
        x = x + h @ p["down"]
    return norm_in_numpy(params["norm"], x) @ params["head"]


@pytest.mark.slow
def test_model_equals_numpy_without_a_scan(params, windows):
    key = jax.random.key(1)  # scales and biases of their own, too
    params = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(key, w.shape), params)
    double = jax.tree.map(lambda w: np.asarray(w, float), params)
    logits = np.stack([logits_in_numpy(TINY, double, row[:-1]) for row in windows])
    np.testing.assert_allclose(TINY.logits(params, windows[:, :-1]), logits, rtol=1e-4, atol=1e-4)
    log_sum = np.log(np.exp(logits).sum(-1))
    expected = log_sum - np.take_along_axis(logits, windows[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(TINY.loss(params, windows), expected.mean(), rtol=1e-5)


@pytest.mark.slow
def test_adamw_is_optax_adamw_bit_by_bit(params):
    adamw = optax.adamw(1e-2, weight_decay=0.01)

    @jax.jit
    def plain(params, state, windows):
        grads = jax.grad(TINY.loss)(params, windows)
        updates, state = adamw.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    ours = METHODS["adamw"].step(TINY)
    state, want, theirs = METHODS["adamw"].start(params), params, adamw.init(params)
    for windows in islice(batches(0), 5):
        state = ours(state, windows)
        want, theirs = plain(want, theirs, windows)
        jax.tree.map(np.testing.assert_array_equal, state[0], want)


def slices(tree):
    """By the name of each array, blocks apart, in the order of `lsam.layer_names`."""
    parts = []
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts += list(x) if path[0].key == "blocks" else [x]
    return parts


@pytest.mark.slow
def test_sl_sam_moves_the_slices_it_drew_and_draws_by_seed(params, windows):
    method = METHODS["sl_sam"]
    step, state = method.step(TINY), method.start(params)
    for some in islice(batches(0), 5):
        before, state = state, step(state, some)
        moved = [bool((a != b).any()) for a, b in zip(slices(before[0]), slices(state[0]))]
        assert moved == state[1].selected.tolist()
    draws = [step(method.start(params, draws=n), windows)[1].selected for n in (0, 30)]
    assert (draws[0] != draws[1]).any()


def priced(name, params, windows):
    return example.priced(METHODS[name], TINY.loss, params, windows)


def test_prices_are_those_of_inspect(params, windows):
    sizes = dict(zip(lsam.layer_names(params, example.ARRAYS), slices(params)))
    total = sum(x.size for x in jax.tree.leaves(params))
    chosen = ["blocks/1/down", "head"]
    names = lsam.layer_names(params, example.KERNELS)
    cost, share = priced("layerwise_sam", params, windows)([name in chosen for name in names])
    inspection = lsam.inspect(TINY.loss, params, windows, layers=example.KERNELS, k=4)
    assert cost == inspection.cost(chosen) > 1.1
    assert share == sum(sizes[n].size for n in chosen) / total
    cost, share = priced("sam", params, windows)([True] * len(jax.tree.leaves(params)))
    assert (cost, share) == (pytest.approx(2, abs=0.02), 1)


def test_budget_is_priced_at_its_own_cut(params, windows):
    layers, budget = example.KERNELS, METHODS["layerwise_sam-budget"].sam.method
    names = lsam.layer_names(params, layers)
    found = lsam.inspect(TINY.loss, params, windows, layers=layers, cuts=budget.cuts, k=4,
                         selection=budget.selector)  # fmt: skip
    order = [layer.name for layer in found.layers]
    first = order.index(found.cuts[-1])
    assert first > 0

    def all_from(n):
        inspection = lsam.inspect(TINY.loss, params, windows, layers=layers, cuts=[order[n]])
        return inspection.cost(order[n:])

    assert all_from(first) <= 1.5 < all_from(first - 1)
    price = priced("layerwise_sam-budget", params, windows)
    assert price([name in order[first:] for name in names])[0] == all_from(first)


def in_list(params, model):
    """The parameters with the blocks in a list, so that layers have the same names."""
    blocks = [jax.tree.map(lambda w, i=i: w[i], params["blocks"]) for i in range(model.blocks)]
    return {**params, "blocks": blocks}


def unrolled(model, params, windows):
    """The loss by a loop over a list of blocks, whose operations XLA counts."""
    x = params["embedding"][windows[:, :-1]] + params["position"]
    for block in params["blocks"]:
        x = model.block(block, x)
    logits = example.layer_norm(params["norm"], x) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()


@pytest.mark.slow
def test_sl_sam_price_is_what_xla_counts():
    chosen = ("blocks/0/up", "blocks/1/out", "norm/scale")
    model = example.Transformer(blocks=2, width=32, heads=2, context=16)
    params = model.init(jax.random.key(0))
    windows = np.zeros((32, 17), np.int32)

    def always(layers):
        return components.method(
            rho=0.1,
            selection=list(chosen),
            layers=layers,
            combination=combination.selected_only,
            cuts=[chosen[0]],
        )

    tx = always(example.ARRAYS)
    method = example.Method("SL-SAM, always these", tx, optax.sgd(0.1), partial=True)
    price = example.priced(method, model.loss, params, windows)
    names = lsam.layer_names(params, example.ARRAYS)
    counted, _ = price([name in chosen for name in names])
    tx, params = always("array"), in_list(params, model)

    def loss(params, windows):
        return unrolled(model, params, windows)

    step = flops(lsam.value_and_grad(loss, tx), params, tx.init(params), windows)
    plain = flops(jax.value_and_grad(loss), params, windows)
    assert counted == pytest.approx(step / plain, rel=0.05)


@pytest.mark.slow
def test_it_trains_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "PRETRAINING_RATE", 1e-2)
    arguments = ["--methods", "sam", "--seeds", "2", "--learning-rate", "0.01", "--steps", "30",
                 "--pretraining-steps", "40", "--rounds", "2"]  # fmt: skip
    example.main([*arguments, "--out", str(tmp_path)], TINY)
    printed = capsys.readouterr()
    assert "100%" in printed.err
    table = (tmp_path / "finetune.txt").read_text()
    assert table in printed.out
    report = json.loads((tmp_path / "finetune.json").read_text())
    assert list(report["methods"]) == ["adamw", "sam"]
    assert report["text"]["validation"] == example.code(example.VALIDATION)[1]
    before = report["validation_loss_before"]
    for row in report["methods"].values():
        assert max(row["validation_loss"]["values"]) < before - 0.1  # it learns
        assert row["validation_loss"]["std"] > 0
        assert row["label"] in table
        assert f"{row['validation_loss']['mean']:.3f} ±" in table
        assert all(run["step"][-1] == 30 for run in row["runs"])
        assert all(run["validation_loss"][0] == before for run in row["runs"])
        mean = np.mean([run["cost"][-1] for run in row["runs"]]) / 30
        assert row["counted_cost"] == pytest.approx(mean)
    plain, sam = report["methods"].values()
    assert (plain["counted_cost"], plain["perturbed_parameters"]) == (1, 0)
    assert [cost["ratio"] for cost in plain["step_cost"].values()] == [1, 1]
    assert sam["counted_cost"] == pytest.approx(2, abs=0.02)
    assert sam["perturbed_parameters"] == sam["trained_parameters"] == 1
    assert imread(tmp_path / "finetune.png").std() > 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--steps 0", "argument --steps: 0 must be at least 1"),
        ("--pretraining-steps -1", "argument --pretraining-steps: -1 must be at least 0"),
        ("--methods adam", "invalid choice"),
    ],
)
def test_it_refuses_in_one_line(tmp_path, capsys, wrong, message):
    with pytest.raises(SystemExit):
        example.main([*wrong.split(), "--out", str(tmp_path)])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_loss_that_is_not_finite_ends_it(tmp_path, monkeypatch):
    lost = (None, {"validation_loss": [math.nan]}, 0.0)
    monkeypatch.setattr(example, "fit", lambda *args: lost)
    arguments = ["--pretraining-steps", "0", "--methods", "adamw", "--out", str(tmp_path)]
    with pytest.raises(FloatingPointError, match="AdamW, seed 0: the loss is not finite"):
        example.main(arguments, TINY)
