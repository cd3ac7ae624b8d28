"""The benchmarks that are scripts beside their results: small networks, once around."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from scripts import script

import lsam_jax as lsam
from lsam_jax.experiments.bench import baselines, scanned_gpt
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.config import presets
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.models import registry, resnet

scaling, recorded = script("results/bench/scaling"), script("results/bench/recorded")
compile_time = script("results/bench/compile_time")
transformers = script("results/scanned/measure")


@pytest.mark.slow
def test_scaling(tmp_path, capsys, monkeypatch):
    architecture = registry.Architecture(partial(resnet.ResNet, stages=(1,), width=2))
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", architecture)
    file, picture = tmp_path / "x.json", tmp_path / "x.png"
    scaling.main(["k", "--model", "tiny", "--batch", "4", "--image-size", "8", "--values", "1,5",
                  "--rounds", "1", "--out", str(file), "--plot", str(picture)])  # fmt: skip
    report = json.loads(file.read_text())
    assert matplotlib.image.imread(picture)[..., :3].std() > 0.05
    assert list(report["rows"]) == ["k 1", "k 5"]
    one, every = (row["steps"] for row in report["rows"].values())
    for count in ("counted", "modelled"):
        assert one[scaling.LAST][count] < one[scaling.FIRST][count] < every[scaling.FIRST][count]
        assert every[scaling.LAST][count] == every[scaling.FIRST][count]  # all five are perturbed
    assert every[scaling.LAST]["counted"] == pytest.approx(2, abs=0.1)
    assert "k 5        textbook mask" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("along", "value", "kernels", "batch"),
    [("depth", 14, 17, 4), ("width", 8, 23, 4), ("batch", 5, 23, 5), ("k", 2, 23, 4)],
)
def test_what_is_scaled(along, value, kernels, batch):
    work = scaling.Settings(4, 8, along, (value,)).work(value)
    module = work.training.model
    assert 3 + 1 + 1 + 2 * sum(module.stages) == kernels  # shortcuts, stem, head, blocks
    assert module.width == (8 if along == "width" else 16)
    assert work.batch_size == len(work.args[2].labels) == batch


def test_what_cannot_be_scaled():
    with pytest.raises(ValueError, match=r"depth=15 must be 6 n \+ 2"):
        scaling.Settings(values=(8, 15))
    with pytest.raises(ValueError, match="number of layers, 23; got k=24"):
        scaling.row(scaling.Settings(4, 8, "k", (24,)).work(24), 24, 1)


@pytest.fixture
def run(small, tmp_path, monkeypatch):
    """A run of two epochs."""
    monkeypatch.setitem(datasets.LOADERS, "digits", lambda data_dir: small)
    out = tmp_path / "lsam"
    arguments = ["--epochs", "2", "--set", "width=4", "--set", "batch_size=32", "--set", "rho=2.0",
                 "--set", "cuts=1", "--log", "json"]  # fmt: skip
    assert main(["train", "digits-resnet8", *arguments, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_the_layers_of_a_run(run, tmp_path, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    found = recorded.read(run)
    assert (found.step, found.image_size, found.channels, found.num_classes) == (8, 8, 1, 10)
    work = recorded.network(found)
    assert work.args[2].images.shape == (32, 8, 8, 1)
    names = lsam.layer_names(work.params)
    now, before = (epochs[i]["perturbations"] for i in (1, 0))
    counts = dict(zip(names, found.selected.sum(axis=0).tolist()))
    assert counts == {name: now[name] - before[name] for name in now}

    file = tmp_path / "x.json"
    recorded.main([str(run), "--rounds", "1", "--sets", "3", "--out", str(file)])
    report = json.loads(file.read_text())
    mean, rows = report["mean"], list(report["rows"].values())
    assert mean["counted_all_steps"] == pytest.approx(epochs[1]["cost"], rel=2e-3)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    for name, of_row in (("measured", "ratio"), ("counted", "counted"), ("modelled", "modelled")):
        want = sum(row["share"] * row[of_row] for row in rows)
        assert mean[name] == pytest.approx(want)
    assert all(len(row["layers"]) == 2 for row in rows)
    assert report["settings"]["run"] == "lsam"  # no path
    assert "mean of the 4 steps before step 8" in capsys.readouterr().out


def test_a_run_that_says_nothing_is_refused(tmp_path, monkeypatch):
    config = presets.preset("digits-resnet8").configure("momentum_sam").to_json()
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "origin": {}}))
    with pytest.raises(ValueError, match="of method 'momentum_sam'; give one of layerwise_sam"):
        recorded.read(tmp_path)


@pytest.mark.slow
def test_a_run_whose_steps_differ_in_number_is_refused(run, monkeypatch):
    state = recorded.last_state

    def uneven(run, program):
        found = state(run, program)
        selected = found.record.selected.at[0].set(False)
        return found._replace(record=found.record._replace(selected=selected))

    monkeypatch.setattr(recorded, "last_state", uneven)
    with pytest.raises(ValueError, match="perturbed 0, 2 layers in a step; give a run"):
        recorded.read(run)


def test_steps_are_taken_as_often_as_the_run_took_them():
    costs = np.repeat([1.3, 1.0, 1.6], [30, 60, 10])
    taken = costs[recorded.spread(costs, 10)]
    np.testing.assert_array_equal(taken, np.repeat([1.0, 1.3, 1.6], [6, 3, 1]))
    assert sorted(recorded.spread(costs, 1000)) == list(range(100))
    assert recorded.spread(np.arange(5.0), 1).tolist() == [2]  # the median


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["high", "low", "random"])
def test_any_selection_of_a_run_can_be_forced(selection, layerwise):
    config = layerwise.config
    options = {**dict(config.options), "selection": selection}
    tx = recorded.transformation(type(config)(**{**vars(config), "options": options}), 2)
    params = {name: jnp.ones((2, 2)) for name in "abc"}
    state = tx.init(params)._replace(norms=jnp.array([1.0, 0.0, 1.0]))
    _, after = tx.update(params, state, params, grad_fn=lambda p: p)
    assert after.selected.tolist() == [True, False, True]
    assert tx.method.alpha == 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", compile_time.STEPS)
def test_steps_by_hand_are_those_of_the_methods(name):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 4), "bias": (4,)}
    params = [{n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()} for _ in range(2)]
    batch = jnp.asarray(rng.normal(size=(8, 4)))
    loss = lsam.split_loss(lambda p, x: jnp.tanh(x @ p[0]["kernel"] + p[0]["bias"]) @ p[1]["kernel"]
                           + p[1]["bias"], lambda out, x: jnp.mean(out**2))  # fmt: skip
    tx = compile_time.methods()[name]
    want = compile_time.STEPS[name](loss, params, batch)
    value, direction, _ = lsam.value_and_grad(loss, tx)(params, tx.init(params), batch)
    for a, b in zip(jax.tree.leaves((value, direction)), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_compile(tmp_path, capsys):
    file = tmp_path / "x.json"
    compile_time.main(["--layers", "2", "--rounds", "1", "--out", str(file)])
    report = json.loads(file.read_text())
    printed = capsys.readouterr().out
    rows = report["rows"]
    assert list(rows)[:2] == ["plain gradient", "sam by hand"]
    assert rows["sam by hand"]["compile"] == rows["sam by hand"]["trace"] == 1
    for name, row in rows.items():
        assert name in printed
        seconds = rows["sam by hand"]["compile_seconds"] * row["compile"]
        assert row["compile_seconds"] == pytest.approx(seconds) and seconds > 0
        own = rows.get(f"{name} by hand")
        assert (own is None) == (row["own"] is None)
        assert own is None or row["own"] == pytest.approx(row["compile"] / own["compile"])


@pytest.mark.parametrize("network", ["scan", "remat", "list"])
def test_steps_of_transformers_are_the_textbooks(monkeypatch, network):
    shape = scanned_gpt.Shape(blocks=3, width=8, heads=2, tokens=4, batch=2, words=16)
    monkeypatch.setattr(transformers, "SHAPE", shape)
    run, params, layers = transformers.networks()[network]
    steps = transformers.steps_of(run, params, layers)
    loss_fn = scanned_gpt.loss_with(run)

    def rows(path, x):
        if "blocks" not in jax.tree_util.keystr(path):
            return jnp.zeros_like(x)
        if network == "list":
            return jnp.full_like(x, path[1].idx > 0)
        return jnp.zeros_like(x).at[1:].set(1)

    mask = jax.tree_util.tree_map_with_path(rows, params)
    textbook = baselines.textbook(lambda *args: (loss_fn(*args), None), 0.1, normalize=True)
    for name in ("last two blocks, by norm", "last two blocks, always"):
        step, args = steps[name]
        loss, found, _ = jax.jit(step)(*args)
        (wanted_loss, _), wanted = jax.jit(textbook)(params, mask, *args[2:])
        np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
