"""What two gradients of a loss as it is must not do: repeat effects, hide errors, surprise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import io_callback
from textbook import named, relative_error
from training import assert_same
from untraceable import CLOSING, EAGER, network, problem

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

RHO = 0.3
QUIET = pytest.mark.filterwarnings("ignore:.*two gradients:UserWarning")


def mean_of(middle):
    return lambda p, x: jnp.mean(network(middle)(p, x))


CLOSES, TWIN = map(mean_of, CLOSING["custom_vjp"])
BRANCHES = mean_of(EAGER["a branch on the batch"][0])


def sam_by_hand(loss, params, x):
    value, g = jax.value_and_grad(loss)(params, x)
    scale = RHO / optax.tree.norm(g)
    return value, jax.grad(loss)(jax.tree.map(lambda w, d: w + scale * d, params, g), x)


def assert_like(got, want):
    for a, b in zip(named(got).values(), named(want).values()):
        assert relative_error(a, b) <= 1e-12


def test_a_warning_says_what_to_change_and_points_at_the_caller():
    params, (x, _) = problem()
    tx = lsam.layerwise_sam(1, RHO)
    with pytest.warns(
        UserWarning, match=r"two gradients.*custom_vjp.*argument.*untraceable.py"
    ) as seen:
        jax.jit(lsam.value_and_grad(CLOSES, tx))(params, tx.init(params), x)
    assert [w.filename for w in seen] == [__file__]
    with pytest.warns(UserWarning, match=r"two gradients.*jnp.where.*TracerBoolConversionError"):
        lsam.value_and_grad(BRANCHES, tx)(params, tx.init(params), x)
    chain = optax.chain(tx, optax.sgd(0.1))
    with pytest.warns(UserWarning, match=r"two gradients") as seen:
        chain.update(params, chain.init(params), params, value_fn=lambda p: BRANCHES(p, x))
    assert [w.filename for w in seen] == [__file__]


def test_no_warning_where_nothing_could_be_skipped():
    params, (x, _) = problem()
    for tx in (lsam.sam(RHO), lsam.asam(RHO), lsam.look_sam(RHO, 2), lsam.layerwise_sam(0, RHO)):
        lsam.value_and_grad(BRANCHES, tx)(params, tx.init(params), x)
        jax.jit(lsam.value_and_grad(CLOSES, tx))(params, tx.init(params), x)


def test_no_warning_for_a_rule_that_closes_over_what_lives():
    """A value from outside of the loss is no obstacle: the engine takes it, in one trace."""
    params, (x, _) = problem()
    tx = lsam.layerwise_sam(1, RHO)
    calls = []

    @jax.jit
    def step(params, state, x, strength):
        outside = jnp.tanh(strength)

        @jax.custom_vjp
        def weaker(h):
            return h

        weaker.defvjp(lambda h: (h, None), lambda _, g: (outside * g,))

        def loss(params, x):
            calls.append(1)
            return jnp.mean(network(lambda x, h, p: weaker(jax.nn.relu(h)))(params, x))

        return lsam.value_and_grad(loss, tx)(params, state, x)

    step(params, tx.init(params), x, 0.5)
    assert calls == [1]


@pytest.mark.parametrize("jit", [False, True])
def test_an_error_of_the_loss_is_shown_as_it_is(jit):
    params, (x, _) = problem()
    tx = lsam.sam(RHO)

    def wrong(p, x):
        raise KeyError("of the user")

    run = jax.jit if jit else lambda f: f
    with pytest.raises(KeyError, match="of the user") as seen:
        run(lsam.value_and_grad(wrong, tx))(params, tx.init(params), x)
    assert seen.value.__cause__ is None
    if jit:  # where jax.grad fails as well
        with pytest.raises(jax.errors.TracerBoolConversionError):
            jax.jit(lsam.value_and_grad(BRANCHES, tx))(params, tx.init(params), x)


def test_a_wrong_loss_is_refused_as_ever():
    params, (x, _) = problem()
    tx = lsam.sam(RHO)
    for wrong in (lambda p, x: (BRANCHES(p, x), x), lambda p, x: x + BRANCHES(p, x)):
        with pytest.raises(TypeError, match=r"has_aux=True|real scalar"):
            lsam.value_and_grad(wrong, tx)(params, tx.init(params), x)


def test_a_budget_cannot_be_counted():
    params, (x, _) = problem()
    tx = lsam.layerwise_sam(1, RHO, selection=lsam.budget(0.5))
    with pytest.raises(ValueError, match=r"budget needs to count.*cannot be traced.*argument"):
        jax.jit(lsam.value_and_grad(CLOSES, tx))(params, tx.init(params), x)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("method", [lsam.sam(RHO), lsam.look_sam(RHO, 2)], ids=["sam", "look_sam"])
def test_effects_take_place_once_for_each_pass(method, jit, ordered):
    """Nothing is left of the attempt to trace the loss first."""
    params, (x, _) = problem()
    seen = []

    def noting(p, x):
        zero = jax.lax.stop_gradient(x[0, 0])
        io_callback(lambda v: seen.append("front"), None, zero, ordered=ordered)
        return CLOSES(p, x)

    step = lsam.value_and_grad(noting, method)
    out = (jax.jit(step) if jit else step)(params, method.init(params), x)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(seen) == 2
    if method.method.cadence.due is None:
        assert_like(out[:2], sam_by_hand(CLOSES, params, x))


@QUIET
@pytest.mark.parametrize("make", [lsam.sam, lambda r: lsam.layerwise_sam(1, r)], ids=["sam", "one"])
@pytest.mark.parametrize("sync", ["global", "replica"])
@pytest.mark.parametrize("check_vma", [True, False])
def test_on_several_devices(make, sync, check_vma):
    """As the engine does with the twin."""
    params, (x, _) = problem()
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, same = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()
    tx = make(RHO)
    axes = lsam.sam(RHO, axis_name="d", perturbation_sync=sync).method.axes
    tx = lsam.SamTransformation(*(type(f)(tx.method._replace(axes=axes)) for f in tx))

    def on_devices(loss):
        step = jax.shard_map(
            lsam.value_and_grad(loss, tx),
            mesh=mesh,
            in_specs=(same, same, rows),
            out_specs=same,
            check_vma=check_vma,
        )
        return jax.jit(step)(params, tx.init(params), x)

    got, want = on_devices(CLOSES), on_devices(TWIN)
    assert_same(got, want)
    if sync == "global" and tx.method.k is None:
        assert_like(got[:2], sam_by_hand(TWIN, params, x))


@QUIET
def test_in_micro_batches():
    params, (x, _) = problem()
    tx = lsam.layerwise_sam(1, RHO)
    got, want = (
        jax.jit(lsam.value_and_grad(loss, tx, m=3))(params, tx.init(params), x)
        for loss in (CLOSES, TWIN)
    )
    assert_same(got, want)


def test_aux_is_that_of_the_clean_pass():
    """What is no array may differ between the passes, outside of jit."""
    params, tx = jnp.asarray([1.0, -0.5]), lsam.sam(2.0)

    def loss(w):
        rises = bool(jnp.sum(w) > 1)
        return jnp.sum(w**2), {"rises": rises, "name": "high" if rises else "low", "sum": sum(w)}

    (value, aux), grads, _ = lsam.value_and_grad(loss, tx, has_aux=True)(params, tx.init(params))
    assert float(value) == 1.25
    assert aux["name"] == "low" and aux["rises"] is False and float(aux["sum"]) == 0.5
    g = 2 * np.asarray(params)
    assert relative_error(grads, 2 * (np.asarray(params) + 2 * g / np.linalg.norm(g))) <= 1e-12


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eagerly", "compiled"])
@pytest.mark.parametrize("selection", [lsam.budget(0.5), lsam.price(1.5), lsam.budget(0.5, "low")])
def test_a_loss_that_fails_says_why_itself_where_costs_are_counted(selection, run):
    params, (x, _) = problem()
    tx = lsam.layerwise_sam(1, RHO, selection=selection)

    def wrong(params, x):
        return jnp.sum(x @ jnp.ones((x.shape[1] + 1, 2))) + jnp.sum(jax.tree.leaves(params)[0])

    with pytest.raises(TypeError, match="contracting dimensions"):
        run(lsam.value_and_grad(wrong, tx))(params, tx.init(params), x)
    with pytest.raises(ValueError, match="needs to count what a layer costs"):
        lsam.value_and_grad(BRANCHES, tx)(params, tx.init(params), x)
