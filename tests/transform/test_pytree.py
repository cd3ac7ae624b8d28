"""A method is a pair of functions like any Optax transformation: it can be copied, rebuilt, held.

Whatever rebuilds a NamedTuple from its fields gives a method that steps as the first does.
"""

import copy
import dataclasses
import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from family import TABLE
from textbook import named, relative_error

import lsam_jax as lsam

cloudpickle = pytest.importorskip("cloudpickle")

pytestmark = pytest.mark.usefixtures("x64")

REBUILT = {
    "tree.map": lambda tx: jax.tree.map(lambda f: f, tx),
    "flattened": lambda tx: jax.tree.unflatten(jax.tree.structure(tx), jax.tree.leaves(tx)),
    "its type, of its fields": lambda tx: type(tx)(*tx),
    "_replace": lambda tx: tx._replace(init=tx.init),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "cloudpickle": lambda tx: cloudpickle.loads(cloudpickle.dumps(tx)),
    "with_extra_args_support": optax.with_extra_args_support,
}
METHODS = {
    **{name: (row.make, "plain") for name, row in TABLE.items()},
    **{
        n: (contract.METHODS[n], contract.METHODS[n].loss)
        for n in ("layerwise_sam", "functional_sam")
    },
    "esam of samples": (contract.METHODS["esam"], "per_sample"),
}


def params_of(name):
    """Parameters that have the layers that `name` asks for."""
    p = contract.parameters()
    return {"join": p["a"], "deep": p["z"]} if name == "sam_on" else p


def loss_of(name, kind):
    if name == "sam_on":
        return lambda p, x, y: contract.loss({"a": p["join"], "norm": ONE, "z": p["deep"]}, x, y)
    return contract.LOSSES[kind]


ONE = {"scale": 1.0}
GRADIENT = jax.jit(jax.grad(contract.loss))


def steps(tx, loss_fn, params):
    """A step by `value_and_grad`, and then one in a chain."""
    batch = contract.batch()
    value_fn = loss_fn.at(*batch) if hasattr(loss_fn, "at") else lambda p: loss_fn(p, *batch)
    first = lsam.value_and_grad(loss_fn, tx)(params, tx.init(params), *batch)
    optimizer = optax.chain(tx, optax.sgd(0.1))
    state = (first[-1], *optimizer.init(params)[1:])
    zeros = jax.tree.map(jnp.zeros_like, params)
    return first, optimizer.update(zeros, state, params, value_fn=value_fn)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_rebuilt_method_steps_the_same(name):
    make, kind = METHODS[name]
    tx, params = make(), params_of(name)
    run = jax.jit(lambda n, p: steps(rebuilt[n], loss_fn, p), static_argnums=0)
    loss_fn = loss_of(name, kind)
    rebuilt = {"as it is": tx, **{how: again(tx) for how, again in REBUILT.items()}}
    for how, other in rebuilt.items():
        assert type(other) is lsam.SamTransformation, how
        assert isinstance(other, optax.GradientTransformationExtraArgs), how
        assert jax.tree.structure(other) == jax.tree.structure(tx), how
    want = run("as it is", params)
    got = run("cloudpickle", params)  # the only one that is made of other functions
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        assert np.array_equal(a, b)
    for how in REBUILT:
        assert (rebuilt[how] == tx) == (how != "cloudpickle"), how


@pytest.mark.parametrize("how", REBUILT)
def test_a_rebuilt_method_is_sam_by_hand(how):
    tx, params, batch = REBUILT[how](lsam.sam(0.3)), contract.parameters(), contract.batch()
    g = GRADIENT(params, *batch)
    scale = 0.3 / optax.tree.norm(g)
    h = GRADIENT(jax.tree.map(lambda w, d: w + scale * d, params, g), *batch)
    step = jax.jit(lsam.value_and_grad(contract.loss, tx))
    _, direction, _ = step(params, tx.init(params), *batch)
    for a, b in zip(named(direction).values(), named(h).values()):
        assert relative_error(a, b) <= 1e-12


def test_it_hashes_and_compares_as_optax_does():
    for make in (lambda: optax.sgd(0.1), lambda: lsam.sam(0.1)):
        tx = make()
        assert tx == copy.copy(tx) == copy.deepcopy(tx) == jax.tree.map(lambda f: f, tx)
        assert hash(tx) == hash(copy.deepcopy(tx))
        assert tx != make()
        assert len({tx, make(), tx}) == 2
        assert len(jax.tree.leaves(tx)) == 2
        init, update = tx
        assert (init, update) == (tx.init, tx.update)


def test_a_static_argument_of_jit_compiles_once(compilations):
    params, batch = contract.parameters(), contract.batch()
    tx = lsam.layerwise_sam(1, 0.1)
    step = jax.jit(
        lambda tx, *rest: lsam.value_and_grad(contract.loss, tx)(*rest), static_argnums=0
    )
    step(tx, params, tx.init(params), *batch)
    before = compilations.count
    step(jax.tree.map(lambda f: f, tx), params, tx.init(params), *batch)
    assert compilations.count == before


def test_held_by_equinox():
    eqx = pytest.importorskip("equinox")
    params, batch = contract.parameters(), contract.batch()
    tx = lsam.layerwise_sam(1, 0.1)

    class Trainer(eqx.Module):
        params: dict
        tx: optax.GradientTransformation

    @eqx.filter_jit
    def step(params, state, tx, *batch):
        return lsam.value_and_grad(contract.loss, tx)(params, state, *batch)

    @eqx.filter_jit
    def held(trainer, state, *batch):
        return step(trainer.params, state, trainer.tx, *batch)

    want = jax.jit(lsam.value_and_grad(contract.loss, tx))(params, tx.init(params), *batch)
    arrays, rest = eqx.partition(Trainer(params, tx), eqx.is_array)
    trainer = eqx.combine(arrays, rest)
    for got in (step(params, tx.init(params), tx, *batch), held(trainer, tx.init(params), *batch)):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
            assert relative_error(np.asarray(a), np.asarray(b)) <= 1e-12
    assert trainer.tx == tx
    with pytest.raises(TypeError, match=r"keep the original"):
        lsam.value_and_grad(contract.loss, eqx.filter(tx, eqx.is_array))


def test_held_by_a_flax_dataclass():
    struct = pytest.importorskip("flax.struct")

    @struct.dataclass
    class Holder:
        params: dict
        state: lsam.SamState
        tx: lsam.SamTransformation = struct.field(pytree_node=False)

    params, batch = contract.parameters(), contract.batch()
    tx = lsam.sam(0.1)
    holder = Holder(params, tx.init(params), tx)
    step = jax.jit(lambda h, *b: lsam.value_and_grad(contract.loss, h.tx)(h.params, h.state, *b))
    g = GRADIENT(params, *batch)
    scale = 0.1 / optax.tree.norm(g)
    there = jax.tree.map(lambda w, d: w + scale * d, params, g)
    for h in (holder, copy.deepcopy(holder), holder.replace(params=params)):
        _, direction, _ = step(h, *batch)
        for a, b in zip(jax.tree.leaves(direction), jax.tree.leaves(GRADIENT(there, *batch))):
            assert relative_error(np.asarray(a), np.asarray(b)) <= 1e-12


def test_a_method_that_lost_its_functions_says_so():
    params = contract.parameters()
    tx = lsam.sam(0.1)
    nothing = jax.tree.map(lambda f: None, tx)
    wrapped = tx._replace(init=functools.partial(tx.init))
    for lost in (nothing, wrapped):
        with pytest.raises(TypeError, match=r"tx\.init .* keep the original"):
            lsam.value_and_grad(contract.loss, lost)
        with pytest.raises(TypeError, match=r"keep the original"):
            lsam.perturbation_survival(lost, params, params, tx.init(params))
    for lost in (nothing, wrapped):
        with pytest.raises(TypeError, match=r"keep the original"):
            lsam.refresh_mask(lost, tx.init(params), params)


def test_what_is_made_around_methods_is_copied_too():
    params, batch = contract.parameters(), contract.batch()
    split, each = (contract.LOSSES[kind] for kind in ("split", "per_sample"))
    state = lsam.layerwise_sam(1, 0.1).init(params)
    inspection = lsam.inspect(contract.loss, params, *batch)
    things = [split, each, split.at(*batch), each.at(*batch), lsam.stacked("a"), inspection, state]
    things += [lsam.per_layer(lambda name: 0.1), lsam.high(), lsam.random(1), lsam.bandit(0.5, 0.1)]
    things += [lsam.budget(0.5), lsam.sam(0.1).method, lsam.freeze_inactive(optax.sgd(1.0))]
    for thing in things:
        for how, again in REBUILT.items():
            if how in ("its type, of its fields", "_replace", "with_extra_args_support"):
                continue
            other = again(thing)
            assert type(other) is type(thing), how
            if dataclasses.is_dataclass(thing):
                fields = [f.name for f in dataclasses.fields(thing)]
                assert all(hasattr(other, name) for name in fields)
    for loss in (copy.deepcopy(split.at(*batch)), copy.copy(each.at(*batch))):
        assert abs(loss(params) - contract.loss(params, *batch)) <= 1e-12
    assert str(copy.deepcopy(inspection)) == str(inspection)


def test_a_step_for_several_devices_is_copied_too():
    step = lsam.data_parallel(lambda w, x: w - jnp.mean(x), devices=2)
    w, x = jnp.ones(3), jnp.ones((4, 3))
    for again in (copy.copy, copy.deepcopy, lambda s: jax.tree.map(lambda f: f, s)):
        assert np.array_equal(again(step)(w, x), step(w, x))
