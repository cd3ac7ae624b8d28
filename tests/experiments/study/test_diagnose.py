"""Finished runs diagnosed, against a network written out here and its dense Hessian."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import mini
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lsam_jax import diagnostics
from lsam_jax.experiments.cli.main import INTERRUPTED, main
from lsam_jax.experiments.data.datasets import Split
from lsam_jax.experiments.study import evaluation_loss
from lsam_jax.experiments.study.evaluation_loss import Settings, equal_batches
from lsam_jax.experiments.study.landscapes import UNFINISHED
from lsam_jax.experiments.study.sharpness import sharpness
from lsam_jax.experiments.training.finished_run import load

LAYERS = ["stem/kernel", "head/kernel"]
FAST = ["--step", "10", "--probes", "40"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs of the smallest network, with label smoothing."""
    study = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        mini.install(patch.setitem)
        for method in ("sgd", "layerwise_sam"):
            command = ["train", "digits-resnet8", "--method", method, "--epochs", "1"]
            command += ["--set", f"batch_size={mini.BATCH}", "--log", "json"]
            assert main([*command, "--out", str(study / method / "seed0")]) == 0
        yield study


@pytest.fixture
def study(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "study")


def diagnose(*arguments):
    return main(["diagnose", *FAST, *map(str, arguments)])


def written_out(batch_stats, images, labels):
    """The loss of the evaluated network as a function of all parameters."""
    stats = batch_stats["BatchNorm_0"]

    def loss(params):
        x = (images.reshape(len(images), -1) - 8.0) / 5.0
        x = x @ params["stem"]["kernel"] + params["stem"]["bias"]
        x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
        x = jax.nn.relu(x * params["BatchNorm_0"]["scale"] + params["BatchNorm_0"]["bias"])
        logits = x @ params["head"]["kernel"] + params["head"]["bias"]
        targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))

    return loss


@pytest.mark.slow
def test_sharpness_is_that_of_the_network_written_out(study, capsys):
    directory = study / "layerwise_sam" / "seed0"
    assert diagnose(directory, "--rho", "0.1") == 0
    found = json.loads((directory / "sharpness.json").read_text())
    train = mini.dataset().train
    run = load(directory, mini.dataset())
    assert int(run.state.step) == mini.IMAGES // mini.BATCH
    params = run.state.params
    loss = written_out(run.state.batch_stats, train.images.astype(float), train.labels)
    vector, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda v: loss(unravel(v)))(vector)
    hessian = np.asarray(jax.hessian(lambda v: loss(unravel(v)))(vector))

    np.testing.assert_allclose(found["train_loss"], loss(params), rtol=1e-5)
    moved = vector + 0.1 * gradient / jnp.linalg.norm(gradient)
    np.testing.assert_allclose(found["ball"]["loss"], loss(unravel(moved)), rtol=1e-5)
    rise = found["ball"]["loss"] - found["train_loss"]
    np.testing.assert_allclose(found["ball"]["rise"], rise, atol=1e-6)
    np.testing.assert_allclose(found["top_eigenvalue"], np.linalg.eigvalsh(hessian)[-1], rtol=2e-3)
    trace = found["trace"]
    assert trace["probes"] == 40
    assert abs(trace["mean"] - np.trace(hessian)) < 4 * trace["standard_error"]
    assert list(found["layers"]) == LAYERS  # in network order
    names = jax.tree.map(lambda x, path: np.full(x.size, path), params, paths(params))
    names = np.concatenate(jax.tree.leaves(names))
    for layer, row in found["layers"].items():
        inside = names == layer
        own = jnp.where(inside, gradient, 0)
        np.testing.assert_allclose(row["gradient_norm"], jnp.linalg.norm(own), rtol=1e-4)
        block = hessian[np.ix_(inside, inside)]
        np.testing.assert_allclose(row["top_eigenvalue"], np.linalg.eigvalsh(block)[-1], rtol=2e-3)
        moved = vector + 0.1 * own / jnp.linalg.norm(own)
        want = loss(unravel(moved)) - loss(params)
        np.testing.assert_allclose(row["ball_rise"], want, atol=1e-6)
    assert {"images": 64, "seed": 0, "rho": 0.1, "run_step": 4}.items() <= found.items()
    assert "label smoothing 0.1" in found["loss"]
    assert found["environment"]["jax"] == jax.__version__
    printed = capsys.readouterr()
    assert "top eigenvalue" in printed.out
    assert "seed0: sharpness of layers" in printed.err  # how far it is, as there is no terminal
    assert not (directory / "landscapes.npz").exists()
    assert not (study / "distances.json").exists()


def paths(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


@pytest.mark.slow
def test_landscapes_have_the_network_in_the_middle(study):
    directory = study / "sgd" / "seed0"
    assert diagnose(directory, "--landscapes", "--images", "50") == 0
    with np.load(directory / "landscapes.npz") as stored:
        found = dict(stored)
    assert found["layers"].tolist() == LAYERS
    np.testing.assert_array_equal(found["steps"], [-20, -10, 0, 10])
    np.testing.assert_array_equal(found["model_steps"], [-1, 0, 1])
    assert found["loss"].shape == (2, 4, 4)
    assert found["model_loss"].shape == (3, 3)
    clean = json.loads((directory / "sharpness.json").read_text())["train_loss"]
    np.testing.assert_allclose(found["loss"][:, 2, 2], clean, rtol=1e-5)
    np.testing.assert_allclose(found["model_loss"][1, 1], clean, rtol=1e-5)
    run = load(directory, mini.dataset())
    train = mini.dataset().train
    loss = written_out(run.state.batch_stats, train.images[:50] * 1.0, train.labels[:50])
    plane = diagnostics.layer_landscape(
        loss,
        run.state.params,
        layer="head/kernel",
        key=jax.random.fold_in(jax.random.key(0), 1),
        steps=[-20, 10],
    )
    np.testing.assert_allclose(found["loss"][1][::3, ::3], plane.loss, rtol=1e-4)
    assert not (directory / UNFINISHED).exists()


def test_distances_are_those_of_all_trained_parameters(study):
    runs = [study / method / "seed0" for method in ("sgd", "layerwise_sam")]
    assert diagnose(*runs) == 0
    found = json.loads((study / "distances.json").read_text())
    assert found["runs"] == ["sgd/seed0", "layerwise_sam/seed0"]
    loaded = [load(directory, mini.dataset()) for directory in runs]
    first, second = (np.asarray(ravel_pytree(run.state.params)[0], np.float64) for run in loaded)
    far = np.linalg.norm(first - second)
    assert far > 0
    np.testing.assert_allclose(found["distance"], [[0, far], [far, 0]], rtol=1e-6)
    relative = 2 * far / (np.linalg.norm(first) + np.linalg.norm(second))
    np.testing.assert_allclose(found["relative"], [[0, relative], [relative, 0]], rtol=1e-6)
    start = ravel_pytree(loaded[0].program.init(0).params)[0]
    want = [np.linalg.norm(end - start) for end in (first, second)]
    np.testing.assert_allclose(found["from_start"], want, rtol=1e-6)


@pytest.mark.slow
def test_what_is_there_is_kept(study, capsys):
    directory = study / "sgd" / "seed0"
    files = [directory / name for name in ("sharpness.json", "landscapes.npz")]
    assert diagnose(directory, "--landscapes") == 0
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    assert diagnose(directory, "--landscapes") == 0
    assert before == [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    capsys.readouterr()
    assert diagnose(directory, "--landscapes", "--images", "30") == 2
    said = capsys.readouterr().err
    assert "was made with images=64, not 30; --again replaces it" in said
    assert before == [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    assert diagnose(directory, "--landscapes", "--images", "30", "--again") == 0
    assert json.loads(files[0].read_text())["images"] == 30
    with np.load(files[1]) as stored:
        assert stored["images"] == 30
    files[1].write_bytes(files[1].read_bytes()[:100])
    assert diagnose(directory, "--landscapes", "--images", "30") == 2
    assert "cannot be read; --again replaces it" in capsys.readouterr().err


def test_a_stopped_landscape_goes_on_after_its_last_layer(study, monkeypatch):
    directory, layers = study / "sgd" / "seed0", []
    at_once = study / "layerwise_sam" / "seed0"
    real = diagnostics.layer_landscape

    def counted(*args, layer, **options):
        layers.append(layer)
        if layers == LAYERS:
            raise KeyboardInterrupt
        return real(*args, layer=layer, **options)

    monkeypatch.setattr(diagnostics, "layer_landscape", counted)
    assert diagnose(directory, "--landscapes") == INTERRUPTED
    assert not (directory / "landscapes.npz").exists()
    shutil.rmtree(at_once)
    shutil.copytree(directory, at_once)
    assert diagnose(directory, "--landscapes") == 0
    assert layers == [*LAYERS, "head/kernel"]  # the stem was ready
    assert diagnose(at_once, "--landscapes", "--again") == 0
    assert layers == [*LAYERS, "head/kernel", *LAYERS]
    with np.load(directory / "landscapes.npz") as a, np.load(at_once / "landscapes.npz") as b:
        assert sorted(a.files) == sorted(b.files)
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_run_that_fails_leaves_the_others(study, capsys):
    third = shutil.copytree(study / "sgd", study / "longer") / "seed0"
    stored = json.loads((third / "config.json").read_text())
    stored["config"]["epochs"] = 2
    (third / "config.json").write_text(json.dumps(stored))
    runs = [third, study / "missing", study / "sgd" / "seed0", study / "layerwise_sam" / "seed0"]
    assert diagnose(*runs) == 2
    said = capsys.readouterr().err
    assert "has taken 4 of its 8 steps; finish it with lsam-jax train --resume" in said
    assert "holds no run" in said
    assert json.loads((study / "distances.json").read_text())["runs"] == [
        "sgd/seed0",
        "layerwise_sam/seed0",
    ]
    assert all(
        (study / method / "seed0" / "sharpness.json").exists()
        for method in ("sgd", "layerwise_sam")
    )


@pytest.mark.parametrize("trace", [None, 5, {"mean": 1.0, "probes": 40}])
def test_a_damaged_measurement_is_named(trace, study, capsys):
    file = study / "sgd/seed0/sharpness.json"
    made_of = {"images": 64, "seed": 0, "run_step": 4, "rho": 0.05}
    file.write_text(json.dumps({**made_of, "trace": trace}))
    assert diagnose(file.parent) == 2
    lacks = "lacks train_loss, top_eigenvalue, ball, trace.standard_error, layers; --again replaces"
    words = lacks if isinstance(trace, dict) else "is there, but was made with probes=None"
    assert f"'{file}' {words}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images must be at least 1; got --images=0"),
        (["--probes", "1"], "--probes must be at least 2; got --probes=1"),
        (["--seed", "-1"], "--seed=-1"),
        (["--seed", str(2**32)], "--seed=4294967296 must be below"),
        (["--rho", "0"], "--rho must be above 0; got --rho=0"),
        (["--rho", "nan"], "--rho must be finite; got --rho=nan"),
        (["--step", "3"], "--step=3 must be one of 1, 2, 4, 5, 10, 20"),
        (["--layers", "stem/kernel,stem"], "'stem', which does not exist. The layers are: stem/k"),
    ],
)
def test_refuses(trained, arguments, message, capsys):
    directory = trained / "sgd" / "seed0"
    assert main(["diagnose", str(directory), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (directory / "sharpness.json").exists()


def test_a_run_named_twice_is_refused(trained, capsys):
    assert main(["diagnose", *[str(trained / "sgd" / "seed0")] * 2]) == 2
    assert "must name each run once" in capsys.readouterr().err


def test_layers_are_spread_from_input_to_output():
    names = [str(i) for i in range(22)]
    chosen = Settings().chosen(names)
    assert len(chosen) == evaluation_loss.LAYERS
    assert (chosen[0], chosen[-1]) == ("0", "21")
    assert set(np.diff(np.array(chosen, int))) <= {4, 5}
    assert Settings().chosen(["a", "b"]) == ["a", "b"]
    assert Settings(layers=("7", "2")).chosen(names) == ["2", "7"]


def test_the_default_grid_is_the_papers():
    assert Settings().steps == list(range(-20, 20))
    assert all(0.0 in Settings(step=n).steps for n in (1, 2, 4, 5, 10, 20))
    grids = [Settings(step=n).model_steps for n in (1, 2, 4, 5, 10, 20)]
    assert [len(grid) for grid in grids] == [21, 11, 5, 5, 3, 3]
    assert all(grid[len(grid) // 2] == 0 for grid in grids)


@pytest.mark.parametrize(("count", "asked", "sizes"), [(9, 5, [5]), (898, 1024, [224] * 4)])
def test_batches_are_of_one_size(count, asked, sizes):
    split = Split(np.arange(count)[:, None], np.arange(count))
    batches = equal_batches(split, asked)
    assert [len(batch.labels) for batch in batches] == sizes
    for part in zip(*batches):
        np.testing.assert_array_equal(np.concatenate(part).ravel(), np.arange(sum(sizes)))


def test_runs_of_one_network_share_what_is_compiled(study, compilations):
    runs = [load(study / method / "seed0", mini.dataset()) for method in ("sgd", "layerwise_sam")]
    first, second = (evaluation_loss.Measured(run, Settings(), "") for run in runs)
    sharpness(first)
    before = compilations.count
    sharpness(second)
    assert compilations.count == before
    smoother = dataclasses.replace(first.loss_fn.training, smoothing=0.2)
    assert evaluation_loss.EvaluationLoss(smoother) != first.loss_fn
