"""`with_parts`: what goes together, and what is refused by name."""

import jax
import numpy as np
import optax
import pytest
from counting import conditionals
from refusals import parameters, refused
from staged import dense

import lsam_jax as lsam

NO_CLEAN_GRADIENT = {
    "generalized_sam, alpha 0.8": lambda: lsam.generalized_sam(0.1, 0.8),
    "generalized_sam, alpha scheduled": lambda: lsam.generalized_sam(0.1, lambda count: 1.0),
    "layerwise_sam, alpha 0.8": lambda: lsam.layerwise_sam(1, 0.1, 0.8),
    "gsam": lsam.gsam,
    "stable_sam": lsam.stable_sam,
    "look_sam": lsam.look_sam,
    "look_sam, every step": lambda: lsam.look_sam(every=1),
    "ae_sam": lsam.ae_sam,
    "sl_sam": lsam.sl_sam,
    "functional_sam": lsam.functional_sam,
    "esam": lsam.esam,
}
OWN_ASCENT = {
    "adazo_sam": lsam.adazo_sam,
    "momentum_sam": lsam.momentum_sam,
    "gam": lsam.gam,
    "stale": lambda: lsam.with_parts(lsam.sam(), ascent=lsam.stale()),
}
OWN_STEPS = {
    "look_sam": lsam.look_sam,
    "look_sam, every step": lambda: lsam.look_sam(every=1),
    "ae_sam": lsam.ae_sam,
    "sl_sam": lsam.sl_sam,
}


@pytest.mark.parametrize("name", NO_CLEAN_GRADIENT)
def test_no_stale_ascent_without_the_clean_gradient(name):
    own = () if "alpha" in name else (name.partition(",")[0],)
    with refused(ValueError, "ascent", "clean", *own):
        lsam.with_parts(NO_CLEAN_GRADIENT[name](), ascent=lsam.stale())


@pytest.mark.parametrize("name", OWN_ASCENT)
def test_one_ascent_only(name):
    with refused(ValueError, "ascent", "momentum_sam", "layerwise_sam"):
        lsam.with_parts(OWN_ASCENT[name](), ascent=lsam.stale())


@pytest.mark.parametrize("name", OWN_STEPS)
def test_no_cadence_beside_a_rule_for_the_steps_between(name):
    with refused(ValueError, "when", name.partition(",")[0], "sam"):
        lsam.with_parts(OWN_STEPS[name](), when=lsam.every(2))


def test_wrong_types():
    with refused(TypeError, "tx", "chained"):
        lsam.with_parts(optax.chain(lsam.sam(), optax.sgd(0.1)), when=lsam.every(2))
    with refused(TypeError, "ascent", "stale()", "0.9"):
        lsam.with_parts(lsam.sam(), ascent=0.9)
    with refused(TypeError, "when", "every(10)", "10"):
        lsam.with_parts(lsam.sam(), when=10)
    with refused(ValueError, "decay", "1", "below 1"):
        lsam.stale(1.0)
    for rest in (0, 1.5):
        with refused(ValueError, "rest", str(rest), "1"):
            lsam.stale(rest=rest)
    with refused(ValueError, "rest=0.7", "fresh='a'"):
        lsam.stale(fresh="a", rest=0.7)


def test_a_stale_ascent_at_no_radius_is_the_plain_gradient():
    net = dense()
    tx = lsam.with_parts(lsam.sam(0.0), ascent=lsam.stale())
    step, state = jax.jit(lsam.value_and_grad(net.whole, tx)), tx.init(net.params)
    want = jax.jit(jax.value_and_grad(net.whole))(net.params, net.batch)
    for _ in range(3):
        loss, direction, state = step(net.params, state, net.batch)
        for x, y in zip(*map(jax.tree.leaves, ((loss, direction), want)), strict=True):
            assert np.array_equal(x, y)


@pytest.mark.parametrize("make", [lsam.sam, lambda: lsam.layerwise_sam(2, 0.1, cuts=4)])
def test_a_stale_ascent_compiles_no_conditional(make):
    """Which layers move is a mask on one addition: there is nothing that a branch could skip."""
    net, tx = dense(), lsam.with_parts(make(), ascent=lsam.stale())
    step = lsam.value_and_grad(net.whole, tx)
    program = jax.make_jaxpr(step)(net.params, tx.init(net.params), net.batch)
    assert not list(conditionals(program.jaxpr))


def test_its_state_is_one_gradient_and_whether_it_rests():
    params = parameters()
    kernels = [w.shape for w in jax.tree.leaves(params) if w.ndim > 1]
    for rest, more in ((0.5, [()]), (1, [])):
        ascent = lsam.stale(rest=rest)
        state = lsam.with_parts(lsam.layerwise_sam(1, 0.1), ascent=ascent).init(params)
        assert [x.shape for x in jax.tree.leaves(state.memory)] == kernels + more


def test_nothing_changes_without_parts():
    tx = lsam.sam()
    assert lsam.with_parts(tx).method == tx.method
    assert jax.tree.structure(lsam.with_parts(tx).init({"w": np.ones(2)})) == jax.tree.structure(
        tx.init({"w": np.ones(2)})
    )
