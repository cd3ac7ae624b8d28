"""What is traced and compiled grows with the network, and no faster."""

import functools

import jax
import jax.numpy as jnp
import pytest

import lsam_jax as lsam
from lsam_jax.engine import jaxprs, scan_plans, scans

RHO = 0.1


def deep(params, x):
    for layer in params:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x


OUTPUTS = lsam.split_loss(deep, lambda outputs, x: jnp.mean(outputs**2))
METHODS = {
    "sam": lsam.sam(RHO),
    "generalized_sam": lsam.generalized_sam(RHO, 0.7),
    "by layer": lsam.generalized_sam(RHO, 0.7, normalize="layer"),
    "asam": lsam.asam(RHO),
    "gsam": lsam.gsam(RHO, 0.4),
    "stable_sam": lsam.stable_sam(RHO),
    "gam": lsam.gam(RHO, 0.5),
    "look_sam": lsam.look_sam(RHO),
    "ae_sam": lsam.ae_sam(RHO),
    "momentum_sam": lsam.momentum_sam(RHO),
    "sparse_sam": lsam.sparse_sam(RHO),
    "stale": lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale()),
    "late": lsam.with_parts(lsam.sam(RHO), when=lsam.between(1, 5)),
    "f_sam": lsam.f_sam(RHO),
    "zsharp": lsam.zsharp(RHO, 0.3),
    "functional_sam": lsam.functional_sam(RHO),
    "layerwise_sam": lsam.layerwise_sam(1, RHO, normalize=True, layers="array", cuts=1),
}


def arguments(tx, depth):
    params = [{"w": jnp.eye(4), "b": jnp.zeros(4)} for _ in range(depth)]
    return params, tx.init(params), jnp.ones((8, 4))


@functools.cache
def lines_of(name, depth):
    """How long the compiled program is."""
    tx = METHODS[name]
    step = jax.jit(lsam.value_and_grad(OUTPUTS, tx))
    return len(step.lower(*arguments(tx, depth)).compile().as_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_network_twice_as_deep_compiles_to_a_program_twice_as_long(optimized, name):
    # A sum over all arrays that XLA copies into each of them grows with their square.
    assert lines_of(name, 32) < 2.2 * lines_of(name, 16)


@pytest.mark.parametrize(
    "plan", [scan_plans.by_layer, scan_plans.unrolled, scan_plans.where_it_differs]
)
def test_a_scan_over_rows_of_few_arrays_is_not_taken_apart(plan):
    """Two arrays of learned tokens are two layers, however many rows they have."""

    def loss(start, rest, w, x):
        tokens = jnp.concatenate([start, rest])
        x, _ = jax.lax.scan(lambda x, t: (jnp.tanh(x @ w + t), None), x, tokens)
        return jnp.mean(x**2)

    def size(length):
        half = jnp.ones((length // 2, 4))
        args = (half, half, jnp.eye(4), jnp.ones((2, 4)))
        closed = jax.make_jaxpr(loss)(*args)
        return len(scans.split(closed, args, plan, closed.jaxpr.invars[1:2]).jaxpr.eqns)

    assert size(64) == size(16)


def test_a_loop_over_rows_of_few_arrays_is_no_longer_for_more_rows():
    """Where it is chosen step by step which of the two moves."""

    def loss(params, x):
        tokens = jnp.concatenate([params["start"], params["rest"]])
        x, _ = jax.lax.scan(lambda x, t: (jnp.tanh(x @ params["w"] + t), None), x, tokens)
        return jnp.mean(x**2)

    def size(length):
        half = jnp.ones((length // 2, 4))
        params = {"start": half, "rest": half, "w": jnp.eye(4)}
        tx = lsam.layerwise_sam(1, RHO)
        step = lsam.value_and_grad(loss, tx)
        return len(str(jax.make_jaxpr(step)(params, tx.init(params), jnp.ones((2, 4)))))

    assert size(1024) < 1.2 * size(64)


@pytest.mark.parametrize("normalize", [False, True, "layer"])
def test_a_stack_is_one_array_however_many_its_layers(normalize):
    """Norms, masks and perturbations are for all of its slices at once, up to the optimizer."""

    def loss(params, x):
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w["up"] @ w["down"]), None), x, params)
        return jnp.mean(x**2)

    def equations(depth):
        params = {name: jnp.ones((depth, 4, 4)) for name in ("up", "down")}
        stacked = lsam.stacked("", layers="kernel")
        tx = lsam.layerwise_sam(1, RHO, 0.7, layers=stacked, normalize=normalize)
        step = lsam.value_and_grad(loss, tx)
        closed = jax.make_jaxpr(step)(params, tx.init(params), jnp.ones((2, 4)))
        return len(jaxprs.prune(closed.jaxpr).eqns)  # without what is only looked at

    assert equations(12) == equations(3)
