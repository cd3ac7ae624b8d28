"""Fine-tuning a language model: the text, the model, the loop, the prices, the command."""

import json
import math
import pathlib
import sysconfig
from functools import partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import flops
from matplotlib.image import imread

import lsam_jax as lsam
from lsam_jax.components import combination
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.finetune import finetune, loop, text
from lsam_jax.experiments.finetune.finetune import Settings, batches
from lsam_jax.experiments.finetune.methods import ARRAYS, BUDGET, FinetuneMethod, K, Prices, methods
from lsam_jax.experiments.finetune.transformer import BYTES, Transformer, layer_norm
from lsam_jax.transform import transform

TINY = Transformer(blocks=2, width=8, heads=2, context=8)
SETTINGS = Settings(
    TINY, pretraining_steps=40, steps=30, batch_size=8, learning_rate=1e-2, pretraining_rate=1e-2
)
METHODS = methods(SETTINGS.learning_rate)
CODE = text.code(["heapq"])


@pytest.fixture(scope="module")
def params():
    return TINY.init(jax.random.key(0))


@pytest.fixture(scope="module")
def windows():
    return next(batches(SETTINGS, CODE.tokens, 0, 0))


@pytest.fixture(scope="module")
def step():
    """SL-SAM's, which draws."""
    return loop.build_step(TINY, METHODS["sl_sam"])


def test_text_is_what_python_ships():
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    expected = "\n".join((library / file).read_text() for file in ("cmd.py", "json/__init__.py"))
    assert text.code(["cmd", "json"]).tokens.tobytes().decode() == expected
    prose = text.prose()
    assert len(prose.tokens) > 200_000
    assert "with" in prose.tokens.tobytes().decode()
    assert prose.record() == text.prose().record()
    assert prose.record()["sha256"] != CODE.record()["sha256"]
    assert not set(text.TRAINING) & set(text.VALIDATION)
    for modules in (text.TRAINING, text.VALIDATION):
        assert text.code(modules).record()["bytes"] > 50_000


@pytest.mark.parametrize("module", ["sys", "no_such_module"])
def test_text_without_source_is_an_error(module):
    with pytest.raises(OSError, match=f"module '{module}' is not there"):
        text.code([module])


def test_windows_are_pieces_of_the_text():
    tokens = np.arange(100, dtype=np.uint8)
    random = text.drawn(tokens, 500, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(np.diff(random), 1)
    assert (random.min(), random.max()) == (0, 99)
    spread = text.spread(tokens, 4, 10)
    np.testing.assert_array_equal(spread, np.array([0, 30, 60, 90])[:, None] + np.arange(10))


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


def test_model_starts_near_ignorance(params, windows):
    assert TINY.loss(params, windows) == pytest.approx(math.log(BYTES), abs=1.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"width": 6}, "width=6 must be a multiple of heads=4"), ({"blocks": 0}, "blocks=0")],
)
def test_model_refuses_sizes(wrong, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**wrong)


@pytest.mark.slow
def test_adamw_is_optax_adamw_bit_by_bit(params):
    adamw = optax.adamw(SETTINGS.learning_rate, weight_decay=0.01)

    @jax.jit
    def plain(params, state, windows):
        loss, grads = jax.value_and_grad(TINY.loss)(params, windows)
        updates, state = adamw.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    ours = loop.build_step(TINY, METHODS["adamw"])
    state, want, theirs = loop.start(METHODS["adamw"], params), params, adamw.init(params)
    for windows in islice(batches(SETTINGS, CODE.tokens, 1, 0), 5):
        state, loss = ours(state, windows)
        want, theirs, expected = plain(want, theirs, windows)
        assert loss == expected
        jax.tree.map(np.testing.assert_array_equal, state.params, want)


def slices(tree):
    """By the name of each array, blocks apart, in the order of `lsam.layer_names`."""
    parts = []
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts += list(x) if path[0].key == "blocks" else [x]
    return parts


@pytest.mark.slow
def test_sl_sam_moves_the_slices_it_drew_and_draws_by_seed(params, step):
    def run(seed):
        start = loop.start(METHODS["sl_sam"], params, draws=seed * SETTINGS.steps)
        drawn = batches(SETTINGS, CODE.tokens, 1, seed)
        prices = Prices(METHODS["sl_sam"], TINY.loss, params, next(drawn))
        out = loop.fit(step, start, drawn, 10, lambda p: 0.0, prices)
        return out.state.params, out

    state = loop.start(METHODS["sl_sam"], params)
    for windows in islice(batches(SETTINGS, CODE.tokens, 1, 0), 5):
        before, (state, _) = state, step(state, windows)
        moved = [bool((a != b).any()) for a, b in zip(slices(before.params), slices(state.params))]
        assert moved == state.sam.selected.tolist()
    (first, out), (again, same), (other, _) = run(0), run(0), run(1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert out[1:] == same[1:]
    assert (first["head"] != other["head"]).any()
    draws = [
        step(loop.start(METHODS["sl_sam"], params, draws=count), windows)[0].sam.selected
        for count in (0, SETTINGS.steps)
    ]
    assert (draws[0] != draws[1]).any()


def prices_of(name, params, windows):
    return Prices(METHODS[name], TINY.loss, params, windows)


def test_prices_are_those_of_inspect(params, windows):
    arrays = lsam.stacked("blocks", "array")
    sizes = dict(zip(lsam.layer_names(params, arrays), slices(params)))
    total = sum(x.size for x in jax.tree.leaves(params))
    chosen = ["blocks/1/down", "head"]
    layers = lsam.stacked("blocks")
    names = lsam.layer_names(params, layers)
    prices = prices_of("layerwise_sam", params, windows)
    selected = [name in chosen for name in names]
    inspection = lsam.inspect(TINY.loss, params, windows, layers=layers, k=K)
    assert prices.cost(selected) == inspection.cost(chosen) > 1.1
    assert prices.perturbed(selected) == sum(sizes[n].size for n in chosen) / total
    whole = prices_of("sam", params, windows)
    everything = [True] * len(jax.tree.leaves(params))
    assert whole.cost(everything) == pytest.approx(2, abs=0.02)
    assert whole.perturbed(everything) == 1


def test_budget_is_priced_at_its_own_cut(params, windows):
    layers = lsam.stacked("blocks")
    names = lsam.layer_names(params, layers)
    prices = prices_of("layerwise_sam-budget", params, windows)
    order = [layer.name for layer in prices.inspection.layers]
    first = order.index(prices.inspection.cuts[-1])
    assert first > 0

    def all_from(n):
        inspection = lsam.inspect(TINY.loss, params, windows, layers=layers, cuts=[order[n]])
        return inspection.cost(order[n:])

    most = 1 + BUDGET
    assert all_from(first) <= most < all_from(first - 1)
    assert prices.cost([name in order[first:] for name in names]) == all_from(first)


def in_list(params, model):
    """The parameters with the blocks in a list, so that layers have the same names."""
    blocks = [jax.tree.map(lambda w, i=i: w[i], params["blocks"]) for i in range(model.blocks)]
    return {**params, "blocks": blocks}


def unrolled(model, params, windows):
    """The loss by a loop over a list of blocks, whose operations XLA counts."""
    x = params["embedding"][windows[:, :-1]] + params["position"]
    for block in params["blocks"]:
        x = model._block(block, x)
    logits = layer_norm(params["norm"], x) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()


@pytest.mark.slow
def test_sl_sam_price_is_what_xla_counts():
    chosen = ("blocks/0/up", "blocks/1/out", "norm/scale")
    model = Transformer(blocks=2, width=32, heads=2, context=16)
    params = model.init(jax.random.key(0))
    windows = np.zeros((32, 17), np.int32)

    def always(layers):
        return transform.build(
            rho=0.1,
            selection=list(chosen),
            layers=layers,
            combine=combination.selected_only,
            where=[chosen[0]],
        )

    tx = always(ARRAYS)
    method = FinetuneMethod("SL-SAM, always these", tx, optax.sgd(0.1), partial=True)
    prices = Prices(method, model.loss, params, windows)
    names = lsam.layer_names(params, ARRAYS)
    counted = prices.cost([name in chosen for name in names])
    tx, loss, params = always("array"), partial(unrolled, model), in_list(params, model)
    step = flops(lsam.value_and_grad(loss, tx), params, tx.init(params), windows)
    plain = flops(jax.value_and_grad(loss), params, windows)
    assert counted == pytest.approx(step / plain, rel=0.05)


@pytest.fixture(scope="module")
def tiny_command():
    """The command with tiny defaults."""
    with pytest.MonkeyPatch.context() as patch:
        small = {"model": TINY, "batch_size": 8, "pretraining_rate": 1e-2}
        patch.setattr(finetune, "Settings", partial(Settings, **small))
        yield ["finetune", "--steps", "30", "--pretraining-steps", "40", "--rounds", "2"]


@pytest.mark.slow
def test_command_trains_prints_and_writes(tiny_command, tmp_path, capsys):
    out = tmp_path / "new"
    arguments = ["--methods", "sam", "--seeds", "2", "--learning-rate", "0.01"]
    assert main([*tiny_command, *arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "100%" in printed.err
    table = (out / "finetune.txt").read_text()
    assert table in printed.out
    assert sorted(p.name for p in out.iterdir()) == [
        "finetune.json",
        "finetune.png",
        "finetune.txt",
    ]
    report = json.loads((out / "finetune.json").read_text())
    assert list(report["methods"]) == ["adamw", "sam"]
    assert report["text"]["validation"] == text.code(text.VALIDATION).record()
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
    assert imread(out / "finetune.png").std() > 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--seeds", "0"], "--seeds=0 must be at least 1"),
        (["--steps", "0"], "steps=0 must be more than 0"),
        (["--rounds", "0"], "rounds=0 must be at least 1"),
        (["--pretraining-steps", "-1"], "pretraining_steps=-1"),
        (["--learning-rate", "nan"], "learning_rate=nan must be more than 0"),
        (
            ["--methods", "adam"],
            "method='adam' is not known; choose from adamw, sam, layerwise_sam",
        ),
    ],
)
def test_command_refuses_in_one_line(tiny_command, tmp_path, capsys, wrong, message):
    assert main([*tiny_command, *wrong, "--out", str(tmp_path / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.rglob("*.json"))


def test_a_loss_that_is_not_finite_ends_it(tiny_command, tmp_path, capsys, monkeypatch):
    lost = loop.FinetuneRun(None, [0], [0.0], [math.nan], 0.0)
    monkeypatch.setattr(finetune, "fit", lambda *args: lost)
    out = ["--pretraining-steps", "0", "--methods", "adamw", "--out", str(tmp_path)]
    assert main([*tiny_command, *out]) == 1
    assert "error: AdamW, seed 0: the loss is not finite" in capsys.readouterr().err


def test_finetune_refuses_seeds(tmp_path):
    with pytest.raises(ValueError, match=r"seeds=\[0, 0\]"):
        finetune.finetune(SETTINGS, [0, 0], tmp_path)
