"""The contract of a method, over the whole table: what holds for one holds for all."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import BASES, LOSSES, METHODS

import lsam_jax as lsam

core = pytest.mark.core
# One base optimizer for all methods, and the others for a few: what a base optimizer sees of a
# method is its direction, which has zeros in it ("sl_sam") or not.
PAIRS = [pytest.param(name, "adamw", marks=core) for name in METHODS]
PAIRS += [(name, base) for name in ("sam", "sl_sam") for base in BASES if base != "adamw"]
# Methods that sort, draw or branch: `vmap` of these differs between versions of jax.
DECIDES = ("layerwise_sam", "sparse_sam_dynamic", "layerwise_look_sam", "esam", "sl_sam")


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def same(a, b, rtol=1e-9):
    arrays = (map(np.asarray, jax.tree.leaves(tree)) for tree in (a, b))
    for x, y in zip(*arrays, strict=True):
        exact = rtol if x.dtype == np.float64 else max(rtol, 1e-6)
        np.testing.assert_allclose(x, y, rtol=exact, atol=1e-12)


def value_fn_of(method, batch):
    loss = LOSSES[method.loss]
    return loss.at(*batch) if method.loss != "plain" else lambda params: loss(params, *batch)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_trains_through_every_face_with_every_base(name, base):
    """One compilation for all steps, unknown arguments ignored, a checkpoint in between."""
    method, optimizer = METHODS[name], BASES[base]()
    tx = method()
    chain = optax.chain(tx, BASES[base]())
    faces = lsam.value_and_grad(LOSSES[method.loss], tx)
    traced = []

    @jax.jit
    def step(params, chain_state, sam_state, base_state, batch):
        traced.append(1)
        loss, grads, sam_state = faces(params, sam_state, *batch)
        updates, base_state = optimizer.update(grads, base_state, params)
        clean = jax.tree.map(jnp.zeros_like, params)  # not used where there is a value_fn
        value_fn = value_fn_of(method, batch)
        through_chain, chain_state = chain.update(
            clean, chain_state, params, value_fn=value_fn, value=loss, grad=clean, other=object()
        )
        return loss, (updates, through_chain), chain_state, sam_state, base_state

    params = contract.parameters()
    states = chain.init(params), tx.init(params), optimizer.init(params)
    for count in range(4):
        before = types(states)
        loss, updates, *states = step(params, *states, contract.batch(count))
        states = tuple(states)
        assert types(states) == before
        same(*updates)
        assert np.isfinite(loss)
        after = optax.apply_updates(params, updates[0])
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, after))))
        assert types(after) == types(params)
        params = after
        leaves, treedef = jax.tree.flatten(states)  # as a checkpoint has it
        states = jax.tree.unflatten(treedef, [np.asarray(x) for x in leaves])
    assert len(traced) == 1
    assert states[1].count == 4


@core
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", METHODS)
def test_types_are_kept_and_init_is_abstract(request, name, dtype):
    if dtype == "float64":
        request.getfixturevalue("x64")
    method, params, batch = METHODS[name], contract.parameters(dtype), contract.batch()
    tx = method()
    shapes = jax.eval_shape(tx.init, params)
    assert types(shapes) == types(tx.init(params))
    tree = jax.tree.structure(shapes)

    def check(direction, state):
        assert types(direction) == types(params)
        assert types(state) == types(shapes)
        assert jax.tree.structure(state) == tree

    both = lsam.value_and_grad(LOSSES[method.loss], tx)
    loss, *found = jax.eval_shape(both, params, shapes, *batch)
    assert loss.dtype == ("float64" if dtype == "float64" else "float32")
    check(*found)
    gradient = jax.grad(contract.loss)
    by_gradient = lambda p, s: tx.update(p, s, p, grad_fn=lambda p: gradient(p, *batch))  # noqa: E731
    if method.grad_fn:
        check(*jax.eval_shape(by_gradient, params, shapes))
    else:
        with pytest.raises(ValueError, match="value_fn"):
            jax.eval_shape(by_gradient, params, shapes)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[core] * (name in DECIDES)) for name in METHODS]
)
def test_bad_batches_and_seeds_side_by_side(name):
    """No gradient: nothing moves, no NaN. A batch that is not finite: returned, not remembered."""
    method = METHODS[name]
    tx = method()
    one = lsam.value_and_grad(LOSSES[method.loss], tx)
    step, seeds = jax.jit(one), jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))
    params = contract.parameters()
    x, y = contract.batch()

    flat = jax.tree.map(jnp.zeros_like, params)
    _, direction, state = step(flat, tx.init(flat), x, 0 * y)
    same(direction, flat)
    assert all(np.isfinite(m).all() for m in jax.tree.leaves(state))

    _, _, good = step(params, tx.init(params), x, y)
    _, direction, bad = step(params, good, x, y * jnp.nan)
    if name != "sl_sam":  # the others descend on everything
        assert not all(np.isfinite(d).all() for d in jax.tree.leaves(direction))
    same((bad.norms, bad.memory), (good.norms, good.memory))
    loss, direction, after = step(params, bad, x, y)
    assert all(np.isfinite(d).all() for d in jax.tree.leaves((loss, direction, after)))
    assert after.count == 3

    many = [contract.parameters(seed=s) for s in (1, 2)]
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    states = [tx.init(p) for p in many]
    for _ in range(2):
        got = seeds(stack(many), stack(states), x, y)
        want = [step(p, s, x, y) for p, s in zip(many, states)]
        same(got, stack(want))
        states = [w[2] for w in want]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS)
def test_schedules_injected_numbers_and_accumulation(name):
    """A schedule of rho, by itself and through inject_hyperparams; MultiSteps behind it."""
    method = METHODS[name]

    def rising(count):
        return 0.05 * (1 + count)

    makes = {
        "schedule": method(rising),
        "injected schedule": method.injected(rising),
        "injected": method.injected(0.05),
        "constant": method(0.05),
    }
    behind = optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    several = optax.chain(method(0.05), behind)
    params = contract.parameters()

    @jax.jit
    def step(states, several_state, batch):
        value_fn = value_fn_of(method, batch)
        found = {
            how: tx.update(params, states[how], params, value_fn=value_fn)
            for how, tx in makes.items()
        }
        accumulated = several.update(params, several_state, params, value_fn=value_fn)
        return {h: f[0] for h, f in found.items()}, {h: f[1] for h, f in found.items()}, accumulated

    states = {how: tx.init(params) for how, tx in makes.items()}
    several_state, seen = several.init(params), []
    for count in range(3):
        before = types((states, several_state))
        got, states, (update, several_state) = step(states, several_state, contract.batch(count))
        assert types((states, several_state)) == before
        same(got["schedule"], got["injected schedule"], 1e-6)
        same(got["constant"], got["injected"], 1e-6)
        difference = [
            np.max(np.abs(a - b))
            for a, b in zip(*(jax.tree.leaves(got[h]) for h in ("schedule", "constant")))
        ]
        seen.append((max(difference) > 1e-9, any(np.any(u != 0) for u in jax.tree.leaves(update))))
    assert [moved for _, moved in seen] == [False, True, False]
    assert not seen[0][0]
    assert any(differs for differs, _ in seen)
