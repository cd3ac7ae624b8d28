"""Under jit, vmap, scan, donation: the same numbers, and nothing compiled twice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from training import LR, RHO, assert_same, make_step, train

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

SELECTIONS = ("high", "all", "none")
# The whole engine, a switch over cuts and gates, runs on every supported version of jax.
CORE_HIGH = [pytest.param("high", marks=pytest.mark.core), "all", "none"]


def transformation(selection="high", k=2, **options):
    return lsam.layerwise_sam(
        k if selection == "high" else None, RHO, 0.8, selection=selection, **options
    )


def plain_step(loss, tx):
    """`(params, state, batch) -> (params, state, loss)`, SGD without momentum."""
    value_and_grad = lsam.value_and_grad(loss, tx, has_aux=True)

    def step(params, state, batch):
        (value, _), grads, state = value_and_grad(params, state, batch)
        return jax.tree.map(lambda w, g: w - LR * g, params, grads), state, value

    return step


@functools.cache
def compiled_step(selection):
    return jax.jit(plain_step(zoo.build("branches").loss, transformation(selection)))


def one_by_one(selection, params=None):
    case, step = zoo.build("branches"), compiled_step(selection)
    params = case.params if params is None else params
    carry = params, transformation(selection).init(params)
    losses = []
    for batch in case.batches:
        *carry, loss = step(*carry, batch)
        losses.append(loss)
    return *carry, jnp.stack(losses)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.slow
@pytest.mark.core
def test_eager_equals_jitted():
    case, tx = zoo.build("branches"), transformation()
    value_and_grad = lsam.value_and_grad(case.loss, tx, has_aux=True)
    args = case.params, tx.init(case.params), case.batches[0]
    assert_same(value_and_grad(*args), jax.jit(value_and_grad)(*args))


@pytest.mark.parametrize("selection", CORE_HIGH)
def test_scan_over_steps(selection):
    case, tx = zoo.build("branches"), transformation(selection)
    step = plain_step(case.loss, tx)

    def body(carry, batch):
        *carry, loss = step(*carry, batch)
        return tuple(carry), loss

    init = case.params, tx.init(case.params)
    (params, state), losses = jax.jit(lambda c, b: jax.lax.scan(body, c, b))(
        init, stack(case.batches)
    )
    assert_same((params, state, losses), one_by_one(selection))


@pytest.mark.slow
@pytest.mark.parametrize("selection", CORE_HIGH)
def test_vmap_over_seeds(selection):
    """Each seed selects its own layers; of five runs not all select the same."""
    case, tx = zoo.build("branches"), transformation(selection)
    rng = np.random.default_rng(0)
    seeds = [
        jax.tree.map(lambda w: w + 0.3 * rng.normal(size=w.shape), case.params) for _ in range(3)
    ]
    step = plain_step(case.loss, tx)
    params, state = stack(seeds), jax.vmap(tx.init)(stack(seeds))
    batched = jax.jit(jax.vmap(step, in_axes=(0, 0, None)))
    chosen = set()
    for batch in case.batches:
        params, state, losses = batched(params, state, batch)
        chosen.add(bytes(np.asarray(state.selected)))
    runs = [one_by_one(selection, params) for params in seeds]
    assert_same((params, state, losses), stack([(p, s, value[-1]) for p, s, value in runs]))
    assert not (selection == "high" and (state.perturbations == state.perturbations[0]).all())


@pytest.mark.parametrize("selection", SELECTIONS)
def test_donated_buffers(selection):
    case, tx = zoo.build("branches"), transformation(selection)
    step = jax.jit(plain_step(case.loss, tx), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, case.params)
    state = tx.init(params)
    for batch in case.batches:
        given = jax.tree.leaves(params)
        params, state, _ = step(params, state, batch)
        assert all(x.is_deleted() for x in given)
    assert_same((params, state), one_by_one(selection)[:2])


@pytest.mark.parametrize("selection", [*CORE_HIGH, "random"])
def test_second_call_compiles_nothing(compilations, selection):
    case = zoo.build("branches")
    tx = lsam.layerwise_sam(
        2 if selection in ("high", "random") else None, RHO, selection=selection
    )
    traces = []

    def loss(params, batch):
        traces.append(1)
        return case.loss(params, batch)

    step = jax.jit(plain_step(loss, tx))
    carry = step(case.params, tx.init(case.params), case.batches[0])[:2]
    compiled, traced = compilations.count, len(traces)
    assert compiled > 0
    assert traced <= 2  # the loss is traced once, or once more for its shape
    for batch in case.batches[1:]:
        carry = step(*carry, batch)[:2]
    jax.block_until_ready(carry)
    assert (compilations.count, len(traces)) == (compiled, traced)


@pytest.mark.core
def test_schedules_do_not_recompile(compilations):
    """rho, alpha and k are functions of the step count; the step is compiled once."""
    case = zoo.build("branches")
    tx = lsam.layerwise_sam(
        k=lambda count: jnp.where(count < 2, 1, 4),
        rho=optax.linear_schedule(0.1, 0.2, 4),
        alpha=optax.linear_schedule(0.5, 1.0, 4),
    )
    step = make_step(case.loss, tx)
    momentum = optax.sgd(LR, momentum=0.9).init(case.params)
    result, momentum = step(case.params, tx.init(case.params), momentum, case.batches[0])
    compiled = compilations.count
    for batch in case.batches[1:]:
        result, momentum = step(result.params, result.state, momentum, batch)
    assert compilations.count == compiled


def test_state_carries_over_from_another_selection():
    """The state does not depend on the selection: a run may go on with another."""
    case = zoo.build("branches")
    *_, last = train(case, transformation("high"))
    tx = transformation("all")
    go_on = make_step(case._replace(params=last.params).loss, tx)
    result, _ = go_on(
        last.params, last.state, optax.sgd(LR, momentum=0.9).init(last.params), case.batches[0]
    )
    assert result.state.selected.all()
    assert int(result.state.count) == len(case.batches) + 1


def test_a_constant_loss():
    w = jnp.ones(3)
    for tx in (lsam.sam(0.1), lsam.layerwise_sam(None, 0.1, selection="none", layers="array")):
        for run in (jax.jit, lambda step: step):
            loss, direction, state = run(lsam.value_and_grad(lambda w: 1.0, tx))(w, tx.init(w))
            assert isinstance(loss, jax.Array) and (loss, state.rise, state.sharpness) == (1, 0, 0)
            np.testing.assert_array_equal(direction, 0)
