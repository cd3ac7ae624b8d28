"""What every benchmark times: calls, kinds of step, forced layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam
from lsam_jax.experiments.bench import catalog, cost_model, timed, timing, workload
from lsam_jax.experiments.bench.baselines import forced
from lsam_jax.experiments.bench.timed import Timed
from lsam_jax.experiments.bench.workload import Size, Workload
from lsam_jax.experiments.config.methods import METHODS, method
from lsam_jax.experiments.models import registry

PARAMS = {name: jnp.full((2, 2), x) for name, x in (("a", 1.0), ("b", 2.0), ("c", 3.0))}


def loss(params, scale):
    value = scale * sum(jnp.sum(w**2) for w in params.values())
    return value, None


WORK = Workload(loss, PARAMS, (jnp.float32(0.5),), batch_size=7)


class Stub:
    """A call that takes a known time, and perturbs known layers."""

    def __init__(self, now, prices, kinds):
        self.now, self.prices, self.kinds, self.calls = now, prices, kinds, 0

    def __call__(self):
        self.now[0] += self.prices[self.calls]
        self.calls += 1
        return jnp.zeros(())

    def selected(self, steps):
        return np.array(self.kinds[-steps:])


def test_the_mean_is_over_the_kinds_of_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing, "interleaved", partial(timing.interleaved, clock=lambda: now[0]))
    # The machine is slower in the last two rounds, and the first is not timed.
    plain = Stub(now, [50.0, 2, 2, 2, 2, 4, 4], np.zeros((7, 0), bool))
    # Every third step perturbs, and costs three times as much; one of the others was disturbed.
    look = Stub(now, [6, 2, 2, 6, 2, 90, 12], [[True], [False], [False]] * 2 + [[True]])
    found = timed.measure({"SGD": plain, "look": look}, 6)
    assert found["SGD"] == timing.Cost(2.0, 1.0, 1.0, 1.0, 1.0, 1)
    look, ratios = found["look"], [1, 1, 3, 1, 22.5, 3]
    assert look.kinds == 2
    assert look.mean == pytest.approx(2 / 6 * 3 + 4 / 6 * 1)
    assert look.seconds == pytest.approx(2 / 6 * 9 + 4 / 6 * 2)
    assert look.ratio == np.median(ratios)
    assert (look.low, look.high) == tuple(np.quantile(ratios, [0.25, 0.75]))


def test_states_go_on_or_stand_still():
    tx = lsam.look_sam(0.1, every=2, layers="array")
    step = lsam.value_and_grad(loss, tx, has_aux=True)
    start = (tx.init(PARAMS),)
    calls = timed.prepare(
        {"on": Timed(step, start, carries=True), "still": Timed(step, start)}, WORK
    )
    for call in calls.values():
        for _ in range(4):
            call()
    assert calls["on"].selected(4).tolist() == [[True] * 3, [False] * 3] * 2
    assert calls["on"].selected(1).tolist() == [[False] * 3]
    assert calls["still"].selected(4).all()
    assert calls["on"].program is calls["still"].program  # compiled once


@pytest.mark.parametrize("selected", [("a", "c"), ("b", "c")])
def test_layers_are_forced(selected):
    tx = lsam.layerwise_sam(2, 0.1)
    state = forced(tx, PARAMS, selected)
    step = lsam.value_and_grad(loss, tx, has_aux=True)
    (call,) = timed.prepare({"x": Timed(step, (state,))}, WORK).values()
    gradient = call()[1]
    for name, w in PARAMS.items():  # of w^2 / 2 at 1.1 w, or at w
        want = (1.1 if name in selected else 1.0) * w
        np.testing.assert_allclose(gradient[name], want, rtol=1e-6)
    assert call.selected(1)[0].tolist() == [name in selected for name in PARAMS]


def test_what_the_compiler_says():
    def product(params, scale):
        return params["a"] @ params["b"] * scale, params["c"]

    program = timed.compile_step(product, PARAMS, jnp.float32(2.0))
    assert program.compile_seconds > 0
    # Three matrices and a number come in, two go out.
    least = 4 * (3 * 4 + 1 + 2 * 4)
    assert least <= program.total_bytes <= least + program.temporary_bytes + 16
    said = timed.described({"x": program}, program._replace(flops=2 * program.flops), program)
    assert said["x"]["flops_relative_to_sgd"] == 0.5
    assert said["x"]["temporary_bytes_relative_to_textbook"] in (1.0, None)  # None of nothing
    assert said["x"]["compile_seconds_relative_to_textbook"] == 1.0
    assert "run" not in said["x"]


def test_costs_are_means_over_the_steps_in_network_order():
    """A state has its layers in the order of the pytree, which here is not the network's."""
    params = {"a_head": jnp.ones((8, 4)), "b_stem": jnp.ones((32, 8))}

    def chain(params, x):
        return jnp.mean(x @ params["b_stem"] @ params["a_head"]), None

    work = Workload(chain, params, (jnp.ones((16, 32)),), 16)
    configured = method("layerwise_sam", {"k": 1, "rho": 0.1})
    benched = catalog.BenchedMethod("x", configured, cost_model.layerwise_sam)
    stem, head = 2 * 16 * 32 * 8, 2 * 16 * 8 * 4
    plain = 2 * stem + 3 * head
    selected = np.array([[True, False]] * 3 + [[False, True]])  # the head in three steps of four
    found = benched.costs(work, selected)
    want = 1 + (3 * head + (head + stem)) / 4 / plain  # gradients, and the error to the stem
    assert found["modelled"] == pytest.approx(want, abs=0.02)
    again = (3 * head + (stem + head)) / 4 / plain
    assert found["counted"] == pytest.approx(want + again, abs=0.02)


MODELS = ("resnet20", "wrn28_10", "wrn16_2", "vit_b16")  # the paper's


def test_the_papers_throughput():
    known = {model: catalog.published(model, "layerwise_sam")["ratio"] for model in MODELS}
    # Section 4.3 says how much slower than SGD, in % of its throughput, for three of them.
    slower = {"resnet20": 8.5, "wrn28_10": 16.8}
    for model, percent in slower.items():
        assert 100 * (1 - 1 / known[model]) == pytest.approx(percent, abs=0.3)
    assert catalog.published("resnet8", "sgd") is catalog.published("resnet20", "esam") is None


METHOD_NAMES = ("sam", "gam", "sam_on", "vasso", "zsharp")


def test_the_catalogs_know_every_method():
    family = catalog.family()
    public = {name for name in lsam.__all__ if name.endswith(METHOD_NAMES)}
    assert public == {name.partition(" ")[0] for name in family} - {"sgd"}
    own = "sgd sam sam-rise generalized_sam look_sam layerwise_sam"
    parts = "sam-1/8 sam-1/4 layerwise_sam-1/8 stale stale-without-rest"
    wanted = f"{own} {parts} esam sl_sam plain optax textbook"
    table = catalog.table2("resnet20")
    assert list(table) == wanted.split()
    counted = [table[name].method.price(None, ["a"]) for name in parts.split()]
    assert counted == [1.125, 1.25, 1.125, 1, 1]
    assert next(iter(family)) == "sgd"
    wide, small = catalog.table2("wrn28_10"), catalog.table2("resnet8")
    assert (wide["look_sam"].label, small["look_sam"].label) == (
        "LookSAM, every 4",
        "LookSAM, every 3",
    )
    ks = [catalog.table2(model)["layerwise_sam"].method.tx.method.k for model in MODELS]
    assert ks == [4, 4, 2, 1]
    one_gradient = ("momentum_sam", "sam stale", "layerwise_sam k=4 stale")
    assert [family[name].method.price(None, ["a"]) for name in one_gradient] == [1, 1, 1]
    assert METHODS.keys() - {"layerwise_sam", "stale"} <= family.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b16", "wrn16_2"])
def test_networks_are_differentiated_as_they_are_trained(name, monkeypatch):
    options = {"vit_b16": {"width": 12, "heads": 3, "depth": 1, "image_size": 16,
                           "hidden": 8}, "wrn16_2": {"width": 2, "stages": (1,)}}[name]  # fmt: skip
    work = workload.whole_network(name, Size(4, 16), num_classes=3, **options)
    shapes = jax.eval_shape(work.loss, work.params, *work.args)
    assert shapes[0].shape == ()
    names = set(lsam.layer_names(work.params))
    assert ("hidden/kernel" in names) == (name == "vit_b16")  # the backbone is an argument
    assert "head/kernel" in names
    assert not any("backbone" in layer for layer in names)
    each, _ = work.training.each(work.params, *work.args)
    assert each.shape == (4,)
    np.testing.assert_allclose(each.mean(), work.loss(work.params, *work.args)[0], rtol=1e-6)
    assert registry.preset(name)  # known by name


@pytest.mark.slow
def test_a_budget_is_counted_at_its_own_cut():
    work = workload.whole_network("resnet8", workload.Size(4, 8))
    budgeted = catalog.family()["layerwise_sam budget=0.1"].method.tx
    cuts = catalog.inspect(work, budgeted).cuts
    assert len(cuts) == 1
    network = catalog.inspect(work, lsam.sam())
    full = dict(zip([layer.name for layer in network.layers], network.profile.full, strict=True))
    assert full[cuts[0]] <= 0.1
