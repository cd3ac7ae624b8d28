"""freeze_inactive: an array without gradient keeps its weights and its optimizer's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

BASES = {
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "lion": lambda: optax.lion(0.1),
    "lamb": lambda: optax.lamb(0.1),
    "masked": lambda: optax.adamw(
        0.1, weight_decay=0.3, mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params)
    ),
}
PARAMS = {"a": {"w": jnp.ones((2, 3)), "b": jnp.full(3, 2.0)}, "c": [jnp.full((2, 2), 3.0), None]}
ACTIVE = [(1, 0, 1), (0, 1, 1), (0, 0, 1), (1, 0, 0), (1, 1, 1)]  # a/b, a/w, c/0 by step


@pytest.mark.slow
@pytest.mark.parametrize(
    "base", [pytest.param(base, marks=[pytest.mark.core] * (base == "masked")) for base in BASES]
)
def test_each_array_is_trained_as_if_alone_in_its_own_steps(base):
    """The oracle: one optimizer for each array, called only in the steps that the array takes."""
    optimizer = lsam.freeze_inactive(BASES[base]())
    update = jax.jit(optimizer.update)
    params, state = PARAMS, optimizer.init(PARAMS)
    leaves, treedef = jax.tree.flatten(PARAMS)
    alone = [BASES[base]() for _ in leaves]
    states = [o.init(x) for o, x in zip(alone, leaves)]
    rng = np.random.default_rng(0)
    for active in ACTIVE:
        g = [on * jnp.asarray(rng.normal(size=x.shape), x.dtype) for on, x in zip(active, leaves)]
        updates, state = update(jax.tree.unflatten(treedef, g), state, params)
        params = optax.apply_updates(params, updates)
        for n, on in enumerate(active):
            if on:
                step, states[n] = alone[n].update(g[n], states[n], leaves[n])
                leaves[n] = optax.apply_updates(leaves[n], step)
        for got, want in zip(jax.tree.leaves(params), leaves, strict=True):
            assert np.allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.core
def test_sl_sam_moves_only_what_it_draws():
    def loss(p):
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(p))

    tx = lsam.sl_sam(0.1, 0.5)
    optimizer = optax.chain(tx, lsam.freeze_inactive(optax.adamw(0.1, weight_decay=0.1)))
    plain = optax.chain(tx, optax.adamw(0.1, weight_decay=0.1))

    def run(optimizer):
        params, state = PARAMS, optimizer.init(PARAMS)
        update = jax.jit(lambda s, p: optimizer.update(p, s, p, value_fn=loss))
        for _ in range(6):
            updates, state = update(state, params)
            moved = [np.any(u != 0) for u in map(np.asarray, jax.tree.leaves(updates))]
            assert len(moved) == len(state[0].selected)
            params = optax.apply_updates(params, updates)
            yield moved == state[0].selected.tolist()

    assert all(run(optimizer))
    assert not all(run(plain))  # momentum and weight decay move the others


@pytest.mark.core
def test_it_keeps_types_and_takes_extra_arguments():
    optimizer = lsam.freeze_inactive(optax.adamw(0.1))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    state = optimizer.init(params)
    updates, new = jax.eval_shape(
        lambda p, s: optimizer.update(p, s, p, value_fn=None, other=1), params, state
    )
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


def test_what_is_no_optimizer_or_no_stack_is_refused():
    with refused(TypeError, "base", "3", "optax.adamw"):
        lsam.freeze_inactive(3)
    with refused(TypeError, "stacks", "'blocks'", "lsam.stacked"):
        lsam.freeze_inactive(optax.sgd(0.1), stacks="blocks")


def test_another_state_is_refused():
    frozen, w = lsam.freeze_inactive(optax.adam(0.1)), {"a": jnp.ones(2)}
    for state in (optax.adam(0.1).init(w), frozen.init(w)._asdict(), None):
        with refused(TypeError, "state", "FrozenState", type(state).__name__, "tx.init(params)"):
            frozen.update(w, state, w)
    with refused(ValueError, "state", "arrays a", "are b", "tx.init(params)"):
        frozen.update({"b": jnp.ones(2)}, frozen.init(w), {"b": jnp.ones(2)})
