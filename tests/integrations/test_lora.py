"""Adapters in a frozen backbone: the parameters are the adapters, the backbone is an argument."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checks import assert_at_floor, assert_exact
from counting import flops
from training import RHO
from zoo.common import CLASSES, Case, array, batches, cross_entropy, layer_norm

import lsam_jax as lsam

BLOCKS, RANK = 4, 2


def build(width, adapted, batch=4):
    """The backbone, the adapters of the blocks `adapted` and the head, and the data."""
    rng = np.random.default_rng(0)
    backbone = [array(rng, width, width) for _ in range(BLOCKS)]
    # Against the order of the names, so that the tree's order is not the network's.
    adapters = {
        f"lora{BLOCKS - i}": {"a": array(rng, width, RANK), "b": array(rng, RANK, width)}
        for i in adapted
    }
    params = {**adapters, "head": array(rng, width, CLASSES)}
    return backbone, params, batches(rng, width, batch=batch)


def after(i, params, x, h, out):
    """What follows a block's frozen product."""
    if lora := params.get(f"lora{BLOCKS - i}"):
        out = out + h @ lora["a"] @ lora["b"]
    return x + jax.nn.gelu(out)


def from_block(start, params, backbone, x):
    for i, frozen in enumerate(backbone[start:], start):
        h = layer_norm(x, 1.0)
        x = after(i, params, x, h, h @ frozen)
    return x @ params["head"]


def loss_fn(params, backbone, batch):
    return cross_entropy(from_block(0, params, backbone, batch["x"]), batch["y"])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("adapted", [range(BLOCKS), [BLOCKS - 1]], ids=["every", "last"])
def test_trains_like_the_textbook(adapted):
    backbone, params, data = build(6, adapted)
    names = [f"lora{BLOCKS - i}/{part}" for i in adapted for part in "ab"]
    case = Case(params, lambda p, b: loss_fn(p, backbone, b), data, (*names, "head"))
    assert_exact(case)


@pytest.mark.parametrize(("first", "most"), [(BLOCKS - 1, 1.5), (1, 2.0)])
def test_a_step_costs_its_floor(first, most):
    """Everything that trains is perturbed: once more what stands behind the first adapter.

    Which is not the frozen product beside it.
    """
    backbone, params, data = build(64, range(first, BLOCKS), batch=16)
    data[0]["x"] = data[0]["x"].astype(jnp.float32)

    def suffix(params, hidden, data):
        backbone, batch = data
        x = after(first, params, *hidden)
        return cross_entropy(from_block(first + 1, params, backbone, x), batch["y"])[0]

    cost = assert_at_floor(
        lambda params, data: loss_fn(params, *data)[0],
        suffix,
        params,
        list(lsam.layer_names(params)),
        [jax.ShapeDtypeStruct((16, 64), jnp.float32)] * 3,  # the stream, normed, times the weight
        (backbone, data[0]),
    )
    assert cost < most


def test_a_head_costs_what_sgd_costs():
    """SAM of all that trains, on a frozen backbone: within 5 % of a plain gradient."""
    backbone, params, data = build(64, [], batch=16)
    tx = lsam.sam(RHO)
    plain = jax.value_and_grad(loss_fn, has_aux=True)
    ours = lsam.value_and_grad(loss_fn, tx, has_aux=True)
    cost = flops(ours, params, tx.init(params), backbone, data[0])
    assert cost <= 1.05 * flops(plain, params, backbone, data[0])


def test_a_budget_holds_for_adapters_everywhere():
    """The price of the worst choice, before anything runs."""
    backbone, params, data = build(64, range(BLOCKS), batch=16)
    tx = lsam.layerwise_sam(2, RHO, selection=lsam.budget(0.3), gate=False)
    plain = flops(jax.value_and_grad(loss_fn, has_aux=True), params, backbone, data[0])
    ours = lsam.value_and_grad(loss_fn, tx, has_aux=True)
    assert flops(ours, params, tx.init(params), backbone, data[0]) <= 1.32 * plain


def test_freezing_by_the_optimizer_costs_more():
    """The backbone among the parameters: its gradients propagate, so adapters belong apart."""
    backbone, params, data = build(64, [BLOCKS - 1], batch=16)
    groups = {"lora": optax.sgd(0.1), "frozen": optax.set_to_zero()}
    labels = {"params": "lora", "backbone": "frozen"}
    tx = lsam.layerwise_sam(1, RHO, selection=["params/head"])
    optimizer = optax.chain(tx, optax.partition(groups, labels))
    everything = {"params": params, "backbone": backbone}

    def step(everything, state):
        def value_fn(p):
            return loss_fn(p["params"], p["backbone"], data[0])[0]

        return optimizer.update(everything, state, everything, value_fn=value_fn)

    apart = lsam.layerwise_sam(1, RHO, selection=["head"])
    ours = lsam.value_and_grad(loss_fn, apart, has_aux=True)
    cost = flops(ours, params, apart.init(params), backbone, data[0])
    assert flops(step, everything, optimizer.init(everything)) > 1.5 * cost
