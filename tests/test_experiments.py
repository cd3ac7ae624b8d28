"""The training loop, the comparison, the benchmark and the command line, for real but small."""

import dataclasses
import getpass
import json
import math
import re
import socket
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.image import imread

import lsam_jax as lsam
from lsam_jax import experiments
from lsam_jax.experiments import (
    bench,
    cli,
    compare,
    data,
    environment,
    evaluation,
    models,
    output,
    peers,
    timing,
    training,
)
from lsam_jax.experiments.config import Config
from lsam_jax.experiments.gradients import method
from lsam_jax.experiments.objective import TrainingLoss, initial_variables
from lsam_jax.experiments.step import build
from lsam_jax.experiments.training import NonFiniteLossError, fit

TINY = Config(width=4, epochs=2, batch_size=32, k=2)
STEPS = 2 * 4


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def small():
    digits = data.digits()
    train = data.Split(*(part[:130] for part in digits.train))
    test = data.Split(*(part[:50] for part in digits.test))
    return digits._replace(train=train, test=test)


@pytest.fixture(scope="module")
def programs(small):
    return {m: build(dataclasses.replace(TINY, method=m, rho=None), small) for m in ("sgd", "sam")}


@pytest.fixture(scope="module")
def layerwise(small):
    return build(TINY, small)


@pytest.fixture(scope="module")
def layerwise_run(layerwise):
    return fit(TINY, program=layerwise)


# ------------------------------------------------------------------ models and data


@pytest.mark.parametrize(
    ("name", "size", "kernels", "parameters"),
    [
        ("resnet8", 8, 11, 78_330),
        ("resnet20", 32, 23, 272_762),
        ("wrn28_10", 32, 29, 36_481_434),
    ],
)
def test_kernel_and_parameter_counts(name, size, kernels, parameters):
    model = models.preset(name)()
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), images)["params"])
    assert sum(x.ndim > 1 for x in shapes) == kernels
    assert sum(x.size for x in shapes) == parameters


def test_a_new_block_is_its_shortcut():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))

    def change_by_the_residual_branches(zero_init):
        model = models.resnet8(width=4, zero_init=zero_init)
        variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
        apply = jax.jit(model.apply)
        before = apply(variables, images)
        for block in ("block0", "block1", "block2"):
            variables["params"][block]["conv2"]["kernel"] *= 5.0
        return np.abs(apply(variables, images) - before).max()

    assert change_by_the_residual_branches(zero_init=True) == 0
    assert change_by_the_residual_branches(zero_init=False) > 1e-3


def test_dropout_follows_its_key_and_is_off_in_evaluation():
    model = models.resnet8(width=4, dropout=0.5, zero_init=False)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))

    @jax.jit
    def logits(seed):
        key = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)[0]

    np.testing.assert_array_equal(logits(0), logits(0))
    assert np.abs(logits(0) - logits(1)).max() > 1e-3
    assert model.apply(variables, images).shape == (4, 10)  # needs no key


def test_computation_in_bfloat16_keeps_parameters_and_logits_in_float32():
    model = models.resnet8(width=4, dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    low, high = model.apply(variables, images), models.resnet8(width=4).apply(variables, images)
    assert low.dtype == jnp.float32
    difference = np.abs(low - high).max()
    assert 0 < difference < 0.1


def test_digits_are_split_once_and_for_all():
    digits = data.digits()
    assert len(digits.train.labels) + len(digits.test.labels) == 1797
    assert digits.train.images.shape[1:] == (8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.max() == 16
    assert np.bincount(digits.test.labels).min() >= 87  # every class has its share
    for a, b in zip(digits.train + digits.test, data.digits().train + data.digits().test):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(digits.train.labels, data.digits(seed=1).train.labels)
    pixels = np.asarray(data.normalise(digits.train.images, digits.mean, digits.std))
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std() - 1) < 1e-5


def test_batches_follow_the_key_and_are_full():
    split = data.Split(np.arange(70, dtype=np.uint8), np.arange(70))
    once = [batch.labels for batch in data.batches(split, 16, jax.random.key(0))]
    again = [batch.labels for batch in data.batches(split, 16, jax.random.key(0))]
    other = [batch.labels for batch in data.batches(split, 16, jax.random.key(1))]
    assert [len(labels) for labels in once] == [16] * 4
    assert len(np.unique(once)) == 64
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    for batch in data.batches(split, 16, jax.random.key(0)):
        np.testing.assert_array_equal(batch.images, batch.labels)


# ------------------------------------------------------------------ the loop


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "adam"}, "method='adam'.*sgd, sam, gsam, lsam"),
        ({"epochs": 0}, "epochs=0.*at least 1"),
        ({"batch_size": 1}, "batch_size=1.*at least 2"),
        ({"k": -1}, "k=-1.*at least 0"),
        ({"rho": -0.1}, "rho=-0.1.*zero or above"),
        ({"rho": math.nan}, "rho=nan.*finite"),
        ({"alpha": math.inf}, "alpha=inf.*finite"),
        ({"learning_rate": math.inf}, "learning_rate=inf.*finite"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"decay_at": (0.5, 1.5)}, "decay_at"),
    ],
)
def test_a_bad_configuration_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        Config(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_size": 131}, "batch_size=131.*130 training images"),
        ({"k": 12}, "k.*12"),
        ({"model": "resnet9"}, "model='resnet9'.*resnet8"),
    ],
)
def test_a_configuration_that_does_not_fit_is_found_before_training(small, values, words):
    with pytest.raises(ValueError, match=words):
        build(dataclasses.replace(TINY, **values), small)
    with pytest.raises(ValueError, match=r"data='imagenet'.*digits"):
        build(dataclasses.replace(TINY, data="imagenet"))


def test_a_run_learns_and_records_every_epoch(layerwise_run):
    history = layerwise_run.history
    assert history.train_loss[1] < history.train_loss[0]
    for name, values in history.to_json().items():
        assert len(values) == (11 if name == "layers" else 2), name
    np.testing.assert_allclose(
        [sum(counts) for counts in history.perturbations], [TINY.k * 4, TINY.k * STEPS]
    )
    np.testing.assert_allclose(history.perturbed_layers, TINY.k / 11)
    assert 0 < history.perturbed_parameters[0] < 1
    assert all(0 <= accuracy <= 1 for accuracy in history.test_accuracy)
    assert int(layerwise_run.state.step) == STEPS


def test_layers_come_in_network_order(layerwise):
    blocks = [f"block{b}/{c}" for b in range(3) for c in ("conv1", "conv2", "shortcut")]
    assert layerwise.layers == tuple(f"{n}/kernel" for n in ["stem", *blocks, "head"])


def test_perturbed_share_counts_parameters_of_the_perturbed_layers(layerwise, layerwise_run):
    sizes = np.array([layerwise.sizes[name] for name in layerwise.layers])
    counts = np.diff(layerwise_run.history.perturbations, axis=0, prepend=0)
    total = sum(x.size for x in jax.tree.leaves(layerwise_run.state.params))
    np.testing.assert_allclose(
        layerwise_run.history.perturbed_parameters, counts @ sizes / (4 * total)
    )


def test_same_seed_same_result_bit_for_bit(layerwise, layerwise_run):
    again = fit(TINY, program=layerwise)
    assert again.history == layerwise_run.history
    jax.tree.map(np.testing.assert_array_equal, again.state.params, layerwise_run.state.params)
    other = fit(dataclasses.replace(TINY, seed=1), program=layerwise)
    assert other.history.train_loss != layerwise_run.history.train_loss
    kernels = [np.asarray(layerwise.init(seed).params["stem"]["kernel"]) for seed in (0, 1)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_sgd_is_the_loop_one_writes_by_hand(programs, small):
    result = fit(programs["sgd"].config, program=programs["sgd"])
    model = models.resnet8(width=4)
    loss_fn = TrainingLoss(model, small.mean, small.std, 0.1)
    weights, _ = jax.random.split(jax.random.key(0))
    variables = initial_variables(model, (8, 8, 1), weights)
    params, stats = variables["params"], variables["batch_stats"]
    velocity = jax.tree.map(jnp.zeros_like, params)
    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    losses, step = [], 0
    for epoch in (1, 2):
        key = jax.random.fold_in(jax.random.key(0), epoch)
        for batch in data.batches(small.train, 32, key):
            (loss, stats), grads = gradient(params, stats, batch, jax.random.key(0))
            rate = 0.1 if step < 5 else 0.01 if step < 7 else 0.001
            velocity = jax.tree.map(lambda v, g, w: 0.9 * v + g + 2e-4 * w, velocity, grads, params)
            params = jax.tree.map(lambda w, v, rate=rate: w - rate * v, params, velocity)
            losses.append(float(loss))
            step += 1
    np.testing.assert_allclose(
        result.history.train_loss, np.mean(np.reshape(losses, (2, 4)), axis=1), rtol=1e-5
    )
    for got, want in zip(jax.tree.leaves(result.state.params), jax.tree.leaves(params)):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    assert result.history.sharpness == [0.0, 0.0]
    assert result.history.perturbed_parameters == [0.0, 0.0]


def test_sam_perturbs_everything_and_keeps_clean_statistics(programs, small):
    batch = data.Split(*(part[:32] for part in small.train))
    after = {name: p.step(p.init(0), batch) for name, p in programs.items()}
    (plain, plain_metrics), (sharp, sharp_metrics) = after["sgd"], after["sam"]
    np.testing.assert_allclose(sharp_metrics.loss, plain_metrics.loss, rtol=1e-6)
    assert sharp_metrics.sharpness > 1e-3
    for a, b in zip(jax.tree.leaves(plain.batch_stats), jax.tree.leaves(sharp.batch_stats)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    difference = jax.tree.map(jnp.subtract, plain.params, sharp.params)
    assert optax.tree.norm(difference) > 1e-3
    history = fit(programs["sam"].config, program=programs["sam"]).history
    np.testing.assert_allclose(history.perturbed_parameters, 1.0)
    np.testing.assert_array_equal(history.perturbations, [[4] * 11, [8] * 11])


def test_gsam_mixes_both_gradients():
    def loss_fn(params):
        return 0.5 * jnp.sum(params["w"] ** 2), None

    config = Config(method="gsam", rho=0.5, alpha=0.25)
    chosen = method(config)
    params = {"w": jnp.array([[3.0, 4.0]])}
    _, grads, _ = chosen.value_and_grad(loss_fn)(params, chosen.init(params))
    # g = w, h = w + 0.5 w / |w|; the mix is w (1 + 0.25 * 0.5 / 5).
    np.testing.assert_allclose(grads["w"], params["w"] * 1.025, rtol=1e-6)


def test_a_program_of_another_configuration_is_refused(layerwise):
    with pytest.raises(ValueError, match="program was built for"):
        fit(dataclasses.replace(TINY, rho=0.2), program=layerwise)


def test_a_loss_that_is_not_finite_stops_the_run(small):
    config = dataclasses.replace(TINY, method="sgd", rho=None, learning_rate=1e30)
    words = r"is (nan|inf) at step [1-3]; lower learning_rate=1e\+30"
    with pytest.raises(NonFiniteLossError, match=words):
        fit(config, small)


def test_evaluation_counts_every_image_once(small, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 16)  # 50 images: the last batch has 2
    model = models.resnet8(width=4)
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
    loss, accuracy = evaluation.evaluate(
        model, small, variables["params"], variables["batch_stats"]
    )
    logits = model.apply(variables, data.normalise(small.test.images, small.mean, small.std))
    log_probability = np.asarray(jax.nn.log_softmax(logits), np.float64)
    np.testing.assert_allclose(
        loss, -log_probability[np.arange(50), small.test.labels].mean(), rtol=1e-5
    )
    assert accuracy == np.mean(np.argmax(logits, axis=1) == small.test.labels)


def test_gradient_norms_are_those_of_the_plain_loss(small):
    model = models.resnet8(width=4)
    loss_fn = TrainingLoss(model, small.mean, small.std, 0.1)
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
    params, stats = variables["params"], variables["batch_stats"]
    norm, by_path = evaluation.gradient_norms(loss_fn, small.train, params, stats)
    gradient = jax.jit(jax.grad(loss_fn, has_aux=True))
    grads, _ = gradient(params, stats, small.train, jax.random.key(0))
    np.testing.assert_allclose(norm, optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(
        by_path["block1/conv1/kernel"],
        np.linalg.norm(np.ravel(grads["block1"]["conv1"]["kernel"])),
        rtol=1e-4,
    )


# ------------------------------------------------------------------ timing, environment, output


def test_functions_are_timed_in_turn_after_a_warm_up():
    calls, now = [], [0.0]
    price = {"a": 1.0, "b": 3.0}

    def function(name):
        def run():
            calls.append(name)
            now[0] += price[name] if len(calls) > 2 else 100.0  # the first round compiles
            return jnp.zeros(())

        return run

    functions = {name: function(name) for name in price}
    seconds = timing.interleaved(functions, 3, clock=lambda: now[0])
    assert calls == ["a", "b"] * 4
    np.testing.assert_array_equal(seconds, [[1.0, 3.0]] * 3)
    with pytest.raises(ValueError, match="rounds=0"):
        timing.interleaved(functions, 0)
    with pytest.raises(ValueError, match="functions is empty"):
        timing.interleaved({}, 1)


def test_a_slow_round_does_not_move_the_ratio():
    seconds = np.array([[1.0, 1.5], [10.0, 15.0], [1.0, 1.5], [1.0, 9.0], [2.0, 3.0]])
    costs = timing.costs(("a", "b"), seconds)
    assert costs["a"] == timing.Cost(1.0, 1.0, 1.0, 1.0)
    assert costs["b"] == timing.Cost(3.0, 1.5, 1.5, 1.5)


def test_the_environment_says_what_and_not_who(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={Path.home()}/dump --xla_cpu_use_x=true")
    found = environment.describe()
    assert found["jax"] == jax.__version__
    assert found["platform"] == jax.default_backend()
    assert found["cpu_count"] >= 1
    assert found["xla_flags"] == "--xla_dump_to=... --xla_cpu_use_x=true"
    text = json.dumps({k: v for k, v in found.items() if k not in ("cpu_model", "system")})
    for secret in (str(Path.home()), socket.gethostname(), getpass.getuser(), str(Path.cwd())):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text)


def test_json_is_strict_and_leaves_no_half_file(tmp_path):
    file = tmp_path / "x.json"
    output.write_json(file, {"a": (1, math.nan, [-math.inf, "b", None])})
    assert json.loads(file.read_text()) == {"a": [1, None, [None, "b", None]]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


# ------------------------------------------------------------------ the benchmark's peers


def test_peers_agree_with_the_closed_form():
    # The gradient of 1/2 a w^2 at w + rho * direction is a (w + rho * direction).
    params = {"first": jnp.array([[1.0, 2.0]]), "last": jnp.array([[3.0, -4.0]])}
    a = jnp.array([2.0, 0.5])

    def loss(params, a):
        value = sum(0.5 * jnp.sum(a * w**2) for w in params.values())
        return value, value

    gradient = {name: a * w for name, w in params.items()}
    norm = optax.tree.norm(gradient)
    one = {"first": params["first"], "last": params["last"] + 0.1 * gradient["last"]}
    both = {name: w + 0.1 * gradient[name] / norm for name, w in params.items()}
    mask = {"first": jnp.array(False), "last": jnp.array(True)}
    tx = lsam.layerwise_sam(k=1, rho=0.1)
    state = tx.init(params)._replace(norms=jnp.array([0.0, 1.0]))
    results = {
        "textbook": (peers.textbook(loss, 0.1)(params, mask, a), one),
        "static": (peers.static_cut(loss, 0.1, ["last"])(params, a), one),
        "layer-wise": (peers.layerwise(loss, tx)(params, state, a)[:2], one),
        "optax": (peers.optax_sam(loss, 0.1)(params, a), both),
        "sgd": (peers.sgd(loss)(params, a), params),
    }
    for name, ((value, got), at) in results.items():
        np.testing.assert_allclose(value, [loss(params, a)[0]] * 2, rtol=1e-6, err_msg=name)
        for layer in params:
            np.testing.assert_allclose(got[layer], a * at[layer], rtol=1e-6, err_msg=name)


# ------------------------------------------------------------------ the command line

COMPARE = ["compare", "--epochs", "2", "--seeds", "2", "--width", "4", "--batch-size", "32"]


def test_compare_trains_prints_and_writes(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(data.LOADERS, "digits", lambda: small)
    out = tmp_path / "new" / "directory"
    assert cli.main([*COMPARE, "--rounds", "4", "--out", str(out)]) == 0
    names = ["SGD", "SAM", "layer-wise SAM"]
    printed = capsys.readouterr()
    for name in names:
        assert re.search(rf"^ *{name} +\d+\.\d\d ±\d+\.\d\d ", printed.out, re.MULTILINE)
    assert "100%" in printed.err  # the progress bar
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.json",
        "gradient_norm.png",
        "learning_curves.png",
        "perturbations.png",
    ]
    report = json.loads((out / "compare.json").read_text())
    assert list(report["methods"]) == names
    assert report["environment"]["jax"] == jax.__version__
    for name, row in report["methods"].items():
        last = [history["test_accuracy"][-1] for history in row["histories"]]
        assert row["test_accuracy"]["values"] == last
        np.testing.assert_allclose(row["test_accuracy"]["mean"], np.mean(last))
        np.testing.assert_allclose(
            row["test_accuracy"]["std"], abs(last[0] - last[1]) / math.sqrt(2), atol=1e-12
        )
        assert row["step_cost"]["ratio"] > 0
        assert row["config"]["epochs"] == 2
        assert row["config"]["method"] == {"SGD": "sgd", "SAM": "sam"}.get(name, "lsam")
    assert report["methods"]["SGD"]["step_cost"]["ratio"] == 1.0
    shares = [report["methods"][name]["perturbed_layers"] for name in names]
    np.testing.assert_allclose(shares, [0.0, 1.0, 2 / 11])
    for picture in ("gradient_norm", "learning_curves", "perturbations"):
        pixels = imread(out / f"{picture}.png")
        assert min(pixels.shape[:2]) > 400
        assert pixels[..., :3].std() > 0.05  # something is drawn
    blue, green = np.array([0, 0x72, 0xB2]) / 255, np.array([0, 0x9E, 0x73]) / 255
    curves = imread(out / "learning_curves.png")[..., :3]
    bars = imread(out / "perturbations.png")[..., :3]
    assert (np.abs(curves - blue).max(axis=-1) < 0.01).sum() > 100
    assert (np.abs(bars - green).max(axis=-1) < 0.01).sum() > 1000


def test_bench_measures_every_program(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(models.PRESETS, "tiny", partial(models.ResNet, stages=(2,), width=4))
    file = tmp_path / "bench.json"
    arguments = ["--model", "tiny", "--batch", "4", "--image-size", "8", "--repeats", "1"]
    assert cli.main(["bench", *arguments, "--no-gate", "--out", str(file)]) == 0
    assert "Cost of a gradient step relative to SGD" in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["settings"]["gate"] is False
    assert len(report["rows"]) == 4
    for row in report["rows"].values():
        assert list(row["costs"]) == [
            "SGD", "layer-wise SAM", "static cut", "textbook mask", "optax.contrib.sam",
        ]  # fmt: skip
        assert row["difference_from_textbook"] < 1e-5  # the forced layers, and no others
    programs = report["programs"]
    assert 1.8 < programs["textbook mask"]["flops_relative_to_sgd"] < 2.2
    assert 1.0 < programs["static cut: last convolution, head"]["flops_relative_to_sgd"] < 1.6
    assert programs["textbook mask"]["temporary_relative_to_textbook"] == 1.0
    assert all(program["compile_seconds"] > 0 for program in programs.values())


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_help_suffices(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--out" in text
    assert "default: " in text
    assert len(text.split("\n\n")[1]) > 200  # says what it does


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--out", "{file}/below"], "cannot write into directory.*--out"),
        (["bench", "--out", "{file}/below/x.json"], "cannot write into directory.*--out"),
        (["bench", "--out", "{directory}"], "is a directory; --out must name a file"),
        (["compare", "--k", "99", "--out", "{directory}"], "k.*99"),
        (["compare", "--k", "-1", "--out", "{directory}"], "k=-1"),
        (["compare", "--seeds", "0", "--out", "{directory}"], "--seeds=0"),
        (["compare", "--rounds", "1", "--out", "{directory}"], "rounds=1"),
        (["compare", "--sam-rho", "-1", "--out", "{directory}"], "rho=-1"),
        (["compare", "--model", "vgg", "--out", "{directory}"], "model='vgg'"),
        (["bench", "--model", "vgg"], "model='vgg'"),
        (["bench", "--repeats", "0"], "repeats=0"),
    ],
)
def test_user_errors_are_one_line_before_anything_runs(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(training, "fit", failing(AssertionError("trained")))
    monkeypatch.setattr(bench, "_bench_network", failing(AssertionError("measured")))
    (tmp_path / "file").write_text("")
    places = {"file": tmp_path / "file", "directory": tmp_path}
    assert cli.main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"lsam-jax: error: [^\n]*{words}[^\n]*\n", error)


def test_ctrl_c_and_a_run_that_went_wrong_have_their_own_codes(tmp_path, capsys, monkeypatch):
    arguments = [*COMPARE, "--out", str(tmp_path)]
    monkeypatch.setattr(training, "fit", failing(KeyboardInterrupt()))
    assert cli.main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(training, "fit", failing(NonFiniteLossError("the loss is nan at step 3")))
    assert cli.main(arguments) == 1
    assert "lsam-jax: error: the loss is nan at step 3\n" in capsys.readouterr().err


def test_a_missing_extra_is_one_line(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("lsam_jax.experiments.")]:
        if name != "lsam_jax.experiments.cli":
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(experiments, name.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    assert cli.main(["compare", "--epochs", "0", "--out", str(tmp_path)]) == 2
    message = 'lsam-jax: error: flax is missing: pip install "lsam-jax[train]"\n'
    assert capsys.readouterr().err == message


def test_a_bug_is_not_taken_for_a_missing_extra(monkeypatch):
    monkeypatch.setattr(
        cli.importlib, "import_module", failing(ModuleNotFoundError("no", name="lsam_jax.oops"))
    )
    with pytest.raises(ModuleNotFoundError):
        cli.main(["compare"])


def test_compare_refuses_recipes_that_differ(tmp_path):
    configs = compare.default_configs(TINY)
    configs["SAM"] = dataclasses.replace(configs["SAM"], epochs=3)
    with pytest.raises(ValueError, match="differ in more than the method"):
        compare.compare(configs, [0], tmp_path)
    with pytest.raises(ValueError, match=r"seeds=\[0, 0\]"):
        compare.compare(compare.default_configs(TINY), [0, 0], tmp_path)
