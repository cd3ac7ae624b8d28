"""`inspect`: layers in network order, the cost of a step at each, and the cuts."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import textbook
import zoo

import lsam_jax as lsam


@pytest.mark.core
@pytest.mark.parametrize("model", zoo.MODELS)
def test_rows_are_in_network_order(x64, model):
    case = zoo.build(model)
    report = lsam.inspect(case.loss, case.params, case.batches[0])
    arrays = textbook.named(case.params)
    used = [name for name in case.order if name != "never"]  # an unused layer may stand anywhere
    assert [row.name for row in report.layers if row.name != "never"] == used
    assert sorted(row.name for row in report.layers) == sorted(case.order)
    for row in report.layers:
        assert row.shape == arrays[row.name].shape
        assert row.parameters == arrays[row.name].size


@pytest.mark.parametrize(
    "model", ["resnet", "transformer", "remat_blocks", "decay_first", "jitted"]
)
def test_costs_fall_towards_the_output(x64, model):
    """From twice a plain gradient at most, to little more than one."""
    case = zoo.build(model)
    costs = [row.cost for row in lsam.inspect(case.loss, case.params, case.batches[0]).layers]
    assert 1.5 < costs[0] <= 2.0
    assert all(cost >= 1 for cost in costs)
    assert costs[-1] == min(costs)
    if model != "resnet":  # there a shortcut costs less than the convolution behind it in order
        assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("cuts", [1, 2, 3, 4, 100])
def test_number_of_cuts(x64, cuts):
    case = zoo.build("resnet")
    report = lsam.inspect(case.loss, case.params, case.batches[0], cuts=cuts)
    assert 1 <= len(report.cuts) <= min(cuts, len(case.order))
    assert report.cuts[0] == case.order[0]  # any layer may be the first perturbed one
    assert list(report.cuts) == [n for n in case.order if n in report.cuts]
    assert len(report.cuts) == min(cuts, len(case.order))


def test_automatic_cuts_are_few(x64):
    case = zoo.build("transformer")
    assert 2 <= len(lsam.inspect(case.loss, case.params, case.batches[0]).cuts) <= 12


def test_named_cuts(x64):
    case = zoo.build("resnet")
    names = [case.order[4], case.order[2]]
    report = lsam.inspect(case.loss, case.params, case.batches[0], cuts=names)
    assert report.cuts == (case.order[0], case.order[2], case.order[4])


def mlp():
    params = {name: jnp.ones((8, 8)) for name in "cab"}

    def loss(params, x, *, scale=1.0):
        for name in "cab":
            x = jnp.tanh(x @ params[name])
        return scale * jnp.mean(x)

    return loss, params, jnp.ones((4, 8))


def test_the_table():
    report = lsam.inspect(*mlp())
    lines = str(report).splitlines()
    assert len(lines) == 4
    assert [line.split()[0] for line in lines] == ["layer", "c", "a", "b"]
    assert all("8x8" in line and "64" in line for line in lines[1:])
    shown = [float(line.split()[3]) for line in lines[1:]]
    assert shown == pytest.approx([row.cost for row in report.layers], abs=1e-3)
    assert [line.split()[0] for line in lines[1:] if line.endswith("cut")] == list(report.cuts)


def test_the_rich_table():
    console = rich.console.Console(file=io.StringIO(), width=100)
    report = lsam.inspect(*mlp())
    console.print(report)
    text = console.file.getvalue()
    for row in report.layers:
        assert f"{row.cost:.3f}" in text
    assert "8x8" in text
    assert "cost" in text


def test_layers_of_several_arrays():
    params = {"a": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "z": {"w": jnp.ones((3, 1))}}

    def loss(p, x):
        return jnp.sum((x @ p["a"]["w"] + p["a"]["b"]) @ p["z"]["w"])

    report = lsam.inspect(loss, params, jnp.ones((4, 2)), layers="module")
    assert [(row.name, row.parameters) for row in report.layers] == [("a", 9), ("z", 3)]
    assert set(report.layers[0].shape) == {(2, 3), (3,)}


def test_shapes_suffice_and_nothing_runs():
    def loss(params, x):
        jax.debug.callback(lambda: pytest.fail("the loss was run"))
        return jnp.sum(jnp.tanh(x @ params["a"]) @ params["b"]), {"aux": x}

    huge = jax.ShapeDtypeStruct((10**5, 10**5), np.float32)
    report = lsam.inspect(loss, {"a": huge, "b": huge}, jnp.ones((2, 10**5)))
    jax.effects_barrier()
    assert [row.name for row in report.layers] == ["a", "b"]


def test_keyword_arguments_reach_the_loss():
    loss, params, x = mlp()
    assert lsam.inspect(loss, params, x, scale=2.0).layers == lsam.inspect(loss, params, x).layers


def test_cuts_are_those_of_the_selection(x64):
    params = {f"w{n}": jnp.ones((8, 8)) for n in range(6)}

    def loss_fn(params, x):
        for n in range(6):
            x = x @ params[f"w{n}"]
        return jnp.mean(x)

    def look(selection):
        return lsam.inspect(loss_fn, params, jnp.ones((4, 8)), selection=selection)

    prices = look("high").profile.full
    for n in range(6):  # a budget that affords w_n and what is behind it, and no more
        within = look(lsam.budget(prices[n] + 1e-9))
        assert within.cuts == (f"w{n}",)
        np.testing.assert_allclose(within.cost([f"w{n}"]), 1 + within.profile.first[n])
        assert within.cost(["w5"]) > look("high").cost(["w5"]) - 1e-9
    assert look(["w4"]).cuts == ("w4",)
    assert look("none").cuts == ()
    with pytest.raises(ValueError, match="w7"):
        look(["w7"])


def test_shows_the_radius_of_the_last_step():
    params = {"w": jnp.asarray([3.0, 4.0])}
    loss = lambda p: jnp.sum(p["w"] ** 2) / 2  # noqa: E731
    tx = lsam.sam(1.0)
    _, _, state = lsam.value_and_grad(loss, tx)(params, tx.init(params))
    network = lsam.inspect(loss, params, layers="array", sam_state=state)
    assert network.last == pytest.approx((1.0, 6.0))  # rho (5 + rho)
    assert "radius 1, the loss rises by 6" in str(network)
    assert lsam.inspect(loss, params, layers="array").last is None
