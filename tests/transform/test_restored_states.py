"""A state that Orbax or Flax has restored without a target goes on like the one that was saved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import METHODS, parameters
from refusals import refused

import lsam_jax as lsam
from lsam_jax.transform.method import layers_of, state_of

pytestmark = pytest.mark.usefixtures("x64")


def nested():
    """Parameters with a tuple, a list, and a number as a key."""
    p = parameters()
    return {"pair": (p["a"], [{"norm": p["norm"]}]), "deep": {7: p["z"]}}


def filled(state):
    """A state like this one, every array of it with numbers of its own."""
    leaves, treedef = jax.tree.flatten(state)
    rng = np.random.default_rng(0)
    new = [jnp.asarray(rng.integers(0, 99, x.shape)).astype(x.dtype) for x in leaves]
    return jax.tree.unflatten(treedef, new)


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def assert_taken_for(restored, state, tx, params):
    assert isinstance(restored, dict)
    assert_equal(state_of(tx.method, layers_of(tx.method, params), params, restored), state)


@pytest.mark.parametrize("name", METHODS)
def test_by_orbax(name, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    tx, params = METHODS[name](), nested()
    state = filled(tx.init(params))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        assert_taken_for(checkpointer.restore(tmp_path / "state"), state, tx, params)


@pytest.mark.parametrize("name", METHODS)
def test_by_flax(name):
    serialization = pytest.importorskip("flax.serialization")
    tx, params = METHODS[name](), nested()
    state = filled(tx.init(params))
    assert_taken_for(serialization.to_state_dict(state), state, tx, params)


@pytest.mark.core
@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_goes_on(compiled):
    """Steps from the dictionary are those from the state."""
    tx, w = lsam.look_sam(rho=0.1, every=3), {"w": jnp.asarray([[3.0, 4.0]])}
    step = lsam.value_and_grad(lambda p: jnp.sum(jnp.sin(p["w"])), tx)
    step = jax.jit(step) if compiled else step
    _, _, state = step(w, tx.init(w))
    memory = state.memory._asdict()
    memory["combination"] = memory["combination"]._asdict()
    assert_equal(step(w, {**state._asdict(), "memory": memory}), step(w, state))


@pytest.mark.core
def test_of_what_takes_a_state():
    w, tx = jnp.asarray([[3.0, 4.0]]), lsam.sparse_sam(rho=2.0)
    state = tx.init(w)
    as_dict = {**state._asdict(), "memory": {"perturbation": {"moves": state.memory[2].moves}}}
    scores = jnp.asarray([[1.0, 2.0]])
    assert_equal(lsam.refresh_mask(tx, as_dict, scores), lsam.refresh_mask(tx, state, scores))
    survived = [lsam.perturbation_survival(tx, w, w, s) for s in (as_dict, state)]
    assert survived[0] == survived[1]
    directions = [tx.update(w, s, w, grad_fn=lambda w: w) for s in (as_dict, state)]
    assert_equal(*directions)


@pytest.mark.core
def test_of_another_method_it_is_refused_with_the_way_out():
    w = {"w": jnp.ones((2, 2))}
    remembers = lsam.momentum_sam().init(w)
    as_dict = {**remembers._asdict(), "memory": {"ascent": dict(remembers.memory.ascent)}}
    words = ("state", "dictionary", "StandardRestore(tx.init(params))")
    with refused(ValueError, *words, "array"):
        lsam.sam().update(w, as_dict, w, grad_fn=lambda w: w)
    with refused(ValueError, *words, "nothing at 'memory/selection'"):
        lsam.sl_sam().update(w, as_dict, w, grad_fn=lambda w: w)
    with refused(ValueError, *words, "nothing at 'count'"):
        lsam.sam().update(w, {}, w, grad_fn=lambda w: w)


@pytest.mark.core
def test_what_is_no_state_at_all():
    w = {"w": jnp.ones((2, 2))}
    with refused(TypeError, "state", "EmptyState", "tx.init(params)"):
        lsam.sam().update(w, optax.EmptyState(), w, grad_fn=lambda w: w)
