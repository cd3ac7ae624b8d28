"""The training loop, for real but small."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import flops
from jax import lax
from tiny import STEPS, TINY, K

import lsam_jax as lsam
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.methods import METHODS, method
from lsam_jax.experiments.config.objective import TrainingLoss, initial_variables
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data.batches import Batches
from lsam_jax.experiments.models import resnet
from lsam_jax.experiments.training import evaluation
from lsam_jax.experiments.training.loop import NonFiniteLossError, fit
from lsam_jax.experiments.training.step import build


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "adam"}, "method='adam'.*sgd, sam, generalized_sam, layerwise_sam"),
        ({"method": "lsam"}, "method='lsam'.*it is 'layerwise_sam' now"),
        ({"options": {"budget": 0.1, "selection": "low"}}, "budget=0.1 and selection='low'"),
        ({"method": "f_sam", "options": {"budget": 0.1}}, "budget=0.1 is for methods that select"),
        ({"epochs": 0}, "epochs must be at least 1; got epochs=0"),
        ({"batch_size": 1}, "batch_size must be at least 2; got batch_size=1"),
        ({"options": {"k": -1}}, "k.*-1"),
        ({"options": {"rho": -0.1}}, "rho.*-0.1"),
        ({"options": {"rho": math.nan}}, "rho.*nan"),
        ({"options": {"alpha": math.inf}}, "alpha.*inf"),
        (
            {"options": {"beta": 1}},
            "beta=1 is not an option of method 'layerwise_sam', which has k, rho",
        ),
        ({"learning_rate": math.inf}, "learning_rate must be finite; got learning_rate=inf"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1; got momentum=1"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"decay_at": (0.5, 1.5)}, "decay_at"),
        ({"dtype": "float16"}, "dtype='float16'.*float32, bfloat16"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0; got clip_norm=0"),
        ({"accumulate": 3}, "accumulate=3 must divide batch_size=64"),
        ({"accumulate": 64}, "accumulate=64 must divide"),
    ],
)
def test_a_bad_configuration_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        Config(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_size": 131}, "batch_size=131.*130 training images"),
        ({"options": {"k": 12}}, "k.*12"),
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
        [sum(counts) for counts in history.perturbations], [K * 4, K * STEPS]
    )
    np.testing.assert_allclose(history.perturbed_layers, K / 11)
    assert 0 < history.perturbed_parameters[0] < 1
    assert all(0 <= accuracy <= 1 for accuracy in history.validation_accuracy)
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


@pytest.mark.slow
def test_cost_is_that_of_the_layers_that_were_perturbed(layerwise, layerwise_run, programs):
    state = layerwise_run.state
    names = lsam.layer_names(state.params)
    rows = [[n for n, one in zip(names, row) if one] for row in np.asarray(state.record.selected)]
    assert [len(row) for row in rows] == [K] * 4
    expected = np.mean([layerwise.inspection.cost(row) for row in rows])
    np.testing.assert_allclose(layerwise_run.history.cost[-1], expected)
    assert all(1 < cost < 1.9 for cost in layerwise_run.history.cost)
    assert all(share > 0.99 for share in layerwise_run.history.perturbation_survival)
    costs = {n: fit(p.config, program=p).history.cost for n, p in programs.items()}
    assert costs["sgd"] == [1.0, 1.0]
    np.testing.assert_allclose(costs["sam"], 2.0, atol=0.02)


def test_the_record_of_an_epoch_is_what_its_steps_reported(layerwise, layerwise_run):
    state = layerwise.init(0)
    reported = []
    for step in range(STEPS):
        state, metrics = layerwise.step(state, layerwise.batches(0)[step])
        reported.append((float(metrics.loss), float(metrics.accuracy), float(state.sam.sharpness)))
    by_epoch = np.reshape(reported, (2, 4, 3)).mean(axis=1).T
    history = layerwise_run.history
    for name, expected in zip(("train_loss", "train_accuracy", "sharpness"), by_epoch):
        np.testing.assert_allclose(getattr(history, name), expected, rtol=1e-6)
    assert history.step == [4, 8]
    record = history.record(2)
    assert record["epoch"] == 2
    assert record["train_loss"] == history.train_loss[1]
    assert record["perturbations"] == dict(zip(history.layers, history.perturbations[1]))


def test_same_seed_same_result_bit_for_bit(layerwise, layerwise_run):
    again = fit(TINY, program=layerwise)
    assert again.history == layerwise_run.history
    jax.tree.map(np.testing.assert_array_equal, again.state.params, layerwise_run.state.params)
    other = fit(dataclasses.replace(TINY, seed=1), program=layerwise)
    assert other.history.train_loss != layerwise_run.history.train_loss
    kernels = [np.asarray(layerwise.init(seed).params["stem"]["kernel"]) for seed in (0, 1)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


@pytest.mark.slow
def test_sgd_is_the_loop_one_writes_by_hand(programs, small):
    result = fit(programs["sgd"].config, program=programs["sgd"])
    model = resnet.resnet8(width=4)
    loss_fn = TrainingLoss(model, small.preprocess, 0.1)
    weights, _ = jax.random.split(jax.random.key(0))
    variables = initial_variables(model, (8, 8, 1), weights)
    params, stats = variables["params"], variables["batch_stats"]
    velocity = jax.tree.map(jnp.zeros_like, params)
    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    losses = []
    batches = Batches(small.train, 32, 0)
    for step in range(STEPS):
        (loss, aux), grads = gradient(params, stats, {}, batches[step], jax.random.key(0))
        stats = aux.batch_stats
        rate = 0.1 if step < 5 else 0.01 if step < 7 else 0.001
        velocity = jax.tree.map(lambda v, g, w: 0.9 * v + g + 2e-4 * w, velocity, grads, params)
        params = jax.tree.map(lambda w, v, rate=rate: w - rate * v, params, velocity)
        losses.append(float(loss))
    np.testing.assert_allclose(
        result.history.train_loss, np.mean(np.reshape(losses, (2, 4)), axis=1), rtol=1e-5
    )
    for got, want in zip(jax.tree.leaves(result.state.params), jax.tree.leaves(params)):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    assert result.history.sharpness == [0.0, 0.0]
    assert result.history.perturbed_parameters == [0.0, 0.0]


def test_sam_perturbs_everything_and_keeps_clean_statistics(programs, small):
    batch = datasets.Split(*(part[:32] for part in small.train))
    after = {name: p.step(p.init(0), batch) for name, p in programs.items()}
    (plain, plain_metrics), (sharp, sharp_metrics) = after["sgd"], after["sam"]
    np.testing.assert_allclose(sharp_metrics.loss, plain_metrics.loss, rtol=1e-6)
    assert sharp.sam.sharpness > 1e-3
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

    chosen = method("generalized_sam", {"rho": 0.5, "alpha": 0.25})
    params = {"w": jnp.array([[3.0, 4.0]])}
    _, grads, _ = chosen.value_and_grad(loss_fn)(params, chosen.init(params))
    # g = w, h = w + 0.5 w / |w|; the mix is w (1 + 0.25 * 0.5 / 5).
    np.testing.assert_allclose(grads["w"], params["w"] * 1.025, rtol=1e-6)


def test_a_program_of_another_configuration_is_refused(layerwise):
    with pytest.raises(ValueError, match="program was built for"):
        fit(dataclasses.replace(TINY, options={"k": 3}), program=layerwise)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(small):
    config = dataclasses.replace(TINY, method="sgd", options={}, learning_rate=1e30)
    words = r"is (nan|inf) at step [1-3]; lower learning_rate=1e\+30$"
    with pytest.raises(NonFiniteLossError, match=words):
        fit(config, small)


def test_evaluation_counts_every_image_once(small, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 16)  # 50 images: the last batch has 2
    model = resnet.resnet8(width=4)
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
    loss_fn = TrainingLoss(model, small.preprocess, 0.0)
    loss, accuracy = evaluation.evaluate(loss_fn, small.validation, variables)
    logits = model.apply(variables, small.preprocess(small.validation.images))
    log_probability = np.asarray(jax.nn.log_softmax(logits), np.float64)
    np.testing.assert_allclose(
        loss, -log_probability[np.arange(50), small.validation.labels].mean(), rtol=1e-5
    )
    assert accuracy == np.mean(np.argmax(logits, axis=1) == small.validation.labels)


def test_evaluation_pads_by_less_than_an_image_a_batch(small, monkeypatch):
    sizes = []

    def counted(model, preprocess, everything, batch, counts):
        sizes.append(len(counts))
        return np.zeros(2)

    monkeypatch.setattr(evaluation, "_sums", counted)
    for largest, wanted in [(32, [25, 25]), (16, [13] * 4), (512, [50])]:
        monkeypatch.setattr(evaluation, "EVALUATION_BATCH", largest)
        evaluation.evaluate(TrainingLoss(None, None, 0.0), small.validation, {})
        assert sizes == wanted
        sizes.clear()


def test_gradient_norms_are_those_of_the_plain_loss(small):
    model = resnet.resnet8(width=4)
    loss_fn = TrainingLoss(model, small.preprocess, 0.1)
    variables = initial_variables(model, (8, 8, 1), jax.random.key(0))
    params, stats = variables["params"], variables["batch_stats"]
    _, norm, by_path = evaluation.probe(loss_fn, small.train, None, (params, stats, {}))
    gradient = jax.jit(jax.grad(loss_fn, has_aux=True))
    grads, _ = gradient(params, stats, {}, small.train, jax.random.key(0))
    np.testing.assert_allclose(norm, optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(
        by_path["block1/conv1/kernel"],
        np.linalg.norm(np.ravel(grads["block1"]["conv1"]["kernel"])),
        rtol=1e-4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"sgd", "sam", "layerwise_sam", "stale"}))
def test_other_methods_train_and_record(small, name):
    config = dataclasses.replace(TINY, method=name, options={}, epochs=1)
    history = fit(config, small).history
    record = history.record(1)
    assert np.isfinite(list(record["layer_norms"].values())).all()
    assert 0 <= record["perturbed_layers"] <= 1
    assert 0 <= record["perturbed_parameters"] <= 1
    expected = {"look_sam": 1 + 2 / 4, "momentum_sam": 1.0}  # two of four steps perturb
    if name in expected:
        np.testing.assert_allclose(record["cost"], expected[name], atol=0.02)
    if name == "sam_on":
        assert sum(record["perturbations"].values()) == 0  # no kernel
        assert 0 < record["perturbed_parameters"] < 0.1


def test_every_method_of_the_library_can_be_trained():
    ends = ("sam", "gam", "sam_on", "vasso", "zsharp")
    assert {name for name in lsam.__all__ if name.endswith(ends)} == set(METHODS) - {"sgd", "stale"}


@pytest.mark.slow
def test_what_sl_sam_does_not_draw_stays_momentum_or_not(small):
    config = dataclasses.replace(TINY, method="sl_sam", options={"active": 0.3}, epochs=1)
    program = build(config, small)
    state, batches = program.init(0), program.batches(0)
    for step in range(3):  # by the third, most arrays have momentum
        before = jax.tree.map(np.array, state.params)  # the state is donated
        state, _ = program.step(state, batches[step])
    names = lsam.layer_names(state.params, program.method.layers)
    drawn = {name for name, one in zip(names, state.sam.selected) if one}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    same = jax.tree.leaves(jax.tree.map(np.array_equal, before, state.params))
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, still in zip(paths, same)
        if not still
    }
    assert moved
    assert moved <= drawn < set(names)


@pytest.mark.parametrize(
    ("written", "method"),
    [
        ({"method": "gsam"}, "generalized_sam"),
        ({"method": "lsam_budget", "options": {"budget": 0.2}}, "layerwise_sam"),
        ({"format": 2, "method": "gsam"}, "gsam"),
        (Config(method="gsam").to_json(), "gsam"),
    ],
)
def test_configurations_written_before_the_methods_had_their_names(written, method):
    config = Config.from_json(written)
    assert config.method == method
    assert Config.from_json(config.to_json()) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("momentum_sam", {"rho": 0.3}),
        ("esam", {"rho": 0.05, "beta": 1.0, "gamma": 0.5}),
        ("sam", {"rho": 0.05}),
        ("layerwise_sam", {"k": 1, "rho": 0.1, "budget": 0.3}),
        ("functional_sam", {"rho": 0.05}),
        ("gam", {"rho": 0.05}),
        ("adazo_sam", {"rho": 0.05, "probes": 2}),
    ],
)
def test_prices_are_what_xla_counts(small, monkeypatch, name, options):
    # Of products in place of convolutions XLA counts the slices too.
    monkeypatch.setattr(resnet, "convolve", lax.conv_general_dilated)
    config = dataclasses.replace(TINY, method=name, options=options)
    program = build(config, small)
    loss_fn = TrainingLoss(resnet.resnet8(width=4), small.preprocess, 0.1)
    state, batch = program.init(0), program.batches(0)[0]
    sam = program.method.init(state.params)
    arguments = (state.batch_stats, {}, batch, jax.random.key(0))
    of = state.params, sam, *arguments
    step = jax.jit(program.method.value_and_grad(loss_fn)).lower(*of).compile()
    _, _, after = step(*of)
    names = lsam.layer_names(state.params, program.method.layers)
    chosen = [layer for layer, one in zip(names, after.selected) if one]
    assert len(chosen) == (1 if name == "layerwise_sam" else len(names))
    plain = jax.value_and_grad(loss_fn, has_aux=True)
    ratio = step.cost_analysis()["flops"] / flops(plain, state.params, *arguments)
    if name == "layerwise_sam":  # of a gate XLA counts the dearer branch: all behind the cut
        rows = [layer.name for layer in program.inspection.layers]
        chosen = rows[rows.index(program.inspection.cuts[0]) :]
    price = program.method.price(program.inspection, chosen)
    np.testing.assert_allclose(price, ratio, rtol=0.06)
