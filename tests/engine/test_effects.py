"""Losses that read and write references, or are seen from outside, in order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from three_layers import state_selecting
from training import assert_same

import lsam_jax as lsam

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.core]

RHO = 0.3


def by_hand(loss, params, batch, chosen, rho=RHO):
    """Two gradients: SAM's that moves the arrays `chosen`."""
    value, g = jax.value_and_grad(loss)(params, batch)
    size = np.sqrt(sum(float(jnp.sum(g[n] ** 2)) for n in chosen))
    there = {n: w + rho * g[n] / size if n in chosen else w for n, w in params.items()}
    return value, jax.grad(loss)(there, batch)


def network():
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=(4, 4)) / 2) for n in ("w3", "w1", "w2")}
    return params, jnp.asarray(rng.normal(size=(8, 4)))


def step_of(loss, tx, params, batch, *chosen, run=jax.jit):
    state = state_selecting(tx, params, *chosen) if chosen else tx.init(params)
    return run(lsam.value_and_grad(loss, tx))(params, state, batch)


def overwritten(params, batch):
    """A reference that carries each layer's result to the next, and the loss."""
    carried = jax.new_ref(batch)
    for n in ("w1", "w2", "w3"):
        carried[...] = jnp.tanh(carried[...] @ params[n])
    return jnp.mean(carried[...] ** 2)


def accumulated(params, batch):
    """A penalty on all activations, added up beside the network."""
    total, x = jax.new_ref(jnp.zeros(())), batch
    for n in ("w1", "w2", "w3"):
        x = jnp.tanh(x @ params[n])
        total[...] += jnp.mean(x**2)
    return jnp.mean(x) + total[...]


def two_references(params, batch):
    """What the first holds goes into the second, late; the first is written again after it."""
    first, second = jax.new_ref(jnp.zeros_like(batch)), jax.new_ref(jnp.ones(()))
    first[...] = jnp.tanh(batch @ params["w1"])
    x = jnp.tanh(first[...] @ params["w2"])
    second[...] = jnp.sum(x**2)
    first[...] = x @ params["w3"]
    return jnp.mean(first[...] ** 2) * second[...]


def within_jit(params, batch):
    held = jax.new_ref(batch)

    @jax.jit
    def layer(w):
        held[...] = jnp.tanh(held[...] @ w)

    for n in ("w1", "w2", "w3"):
        layer(params[n])
    return jnp.mean(held[...] ** 2)


def within_a_scan(params, batch):
    stacked = jnp.stack([params[n] for n in ("w1", "w2", "w3")])
    held = jax.new_ref(batch)

    def layer(_, w):
        held[...] = jnp.tanh(held[...] @ w)
        return None, None

    jax.lax.scan(layer, None, stacked)
    return jnp.mean(held[...] ** 2)


LOSSES = [overwritten, accumulated, two_references, within_jit, within_a_scan]
CHOICES = [("w3",), ("w2",), ("w1", "w3")]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_references_inside_a_loss(loss):
    params, batch = network()
    sam = lsam.sam(RHO)
    assert_same(step_of(loss, sam, params, batch)[:2], by_hand(loss, params, batch, params))
    for chosen in CHOICES:
        want = by_hand(loss, params, batch, chosen)
        fixed = lsam.layerwise_sam(None, RHO, normalize=True, selection=list(chosen))
        assert_same(step_of(loss, fixed, params, batch)[:2], want)
        for gate in (True, False):
            tx = lsam.layerwise_sam(len(chosen), RHO, normalize=True, gate=gate)
            got = step_of(loss, tx, params, batch, *chosen)
            assert_same(got[:2], want)


def test_a_whole_number_in_a_reference():
    def loss(p, _):
        held = jax.new_ref(jnp.asarray(1))
        held[...] = p["b"].astype(int)
        return p["a"] * held[...] + 0.0 * p["b"]

    params = {"a": jnp.asarray(3.0), "b": jnp.asarray(2.0)}
    value, grads, _ = step_of(loss, lsam.sam(0.0), params, None)
    assert (float(value), float(grads["a"]), float(grads["b"])) == (6.0, 2.0, 0.0)


@pytest.mark.parametrize(("rho", "a"), [(0.0, 12.0), (0.5, 15.0)])
def test_a_reference_in_front_of_the_cut(rho, a):
    """b alone moves, by rho: a's gradient is 2 a b' = 6 (2 + rho), though a is read before it."""

    def loss(p, _):
        held = jax.new_ref(jnp.asarray(0.0))
        held[...] = p["a"] ** 2
        return held[...] * p["b"]

    params = {"a": jnp.asarray(3.0), "b": jnp.asarray(2.0)}
    tx = lsam.layerwise_sam(None, rho, selection=["b"], layers="array", normalize=True)
    _, grads, _ = step_of(loss, tx, params, None)
    assert (float(grads["a"]), float(grads["b"])) == (a, 9.0)


def test_layers_behind_a_reference_are_reached():
    params, batch = network()
    network_of = lsam.inspect(overwritten, params, batch)
    assert [layer.name for layer in network_of.layers] == ["w1", "w2", "w3"]
    tx = lsam.layerwise_sam(1, RHO, selection=lsam.budget(10.0))
    _, _, state = step_of(overwritten, tx, params, batch)
    assert bool(state.selected[lsam.layer_names(params).index("w3")])


@pytest.mark.slow
@pytest.mark.parametrize("run", [jax.jit, lambda step: step])
@pytest.mark.parametrize(
    "tx", [lsam.sam(RHO), lsam.layerwise_sam(1, RHO), lsam.look_sam(RHO), lsam.momentum_sam(RHO)]
)
def test_a_reference_of_the_caller_holds_what_the_clean_pass_wrote(tx, run):
    """Each pass starts from what it held: `calls` counts one."""
    params, batch = network()
    seen, calls = jax.new_ref(jnp.zeros((8, 4))), jax.new_ref(jnp.asarray(4))

    def loss(params, batch):
        x = jnp.tanh(batch @ params["w1"])
        seen[...] = jax.lax.stop_gradient(jnp.tanh(x @ params["w2"]))
        calls[...] += 1
        return jnp.mean((seen[...] @ params["w3"]) ** 2) * calls[...] + jnp.mean(x**2)

    def pure(params, batch):
        x = jnp.tanh(batch @ params["w1"])
        kept = jax.lax.stop_gradient(jnp.tanh(x @ params["w2"]))
        return jnp.mean((kept @ params["w3"]) ** 2) * 5 + jnp.mean(x**2)

    got = step_of(loss, tx, params, batch, run=run)
    assert_same(seen[...], jnp.tanh(jnp.tanh(batch @ params["w1"]) @ params["w2"]))
    assert int(calls[...]) == 5
    assert_same(got, step_of(pure, tx, params, batch, run=run))


def test_a_reference_as_an_argument():
    params, batch = network()

    def loss(params, batch, seen):
        x = jnp.tanh(batch @ params["w1"])
        seen[...] = jax.lax.stop_gradient(x)
        return jnp.mean((x @ params["w2"] @ params["w3"]) ** 2)

    tx = lsam.sam(RHO)
    seen = jax.new_ref(jnp.zeros((8, 4)))
    jax.jit(lsam.value_and_grad(loss, tx))(params, tx.init(params), batch, seen)
    assert_same(seen[...], jnp.tanh(batch @ params["w1"]))


def test_parts_of_a_batch_cannot_share_a_reference():
    params, batch = network()
    seen = jax.new_ref(jnp.zeros(()))

    def loss(params, batch):
        seen[...] = jnp.mean(batch)
        return jnp.mean((batch @ params["w1"]) ** 2)

    tx = lsam.sam(RHO)
    with pytest.raises(ValueError, match=r"m=.*reference.*aux"):
        lsam.value_and_grad(loss, tx, m=4)(params, tx.init(params), batch)


def ordered_debug(note, letter, x):
    jax.debug.callback(functools.partial(note, letter), x, ordered=True)


def ordered_io(note, letter, x):
    io_callback(functools.partial(note, letter), None, jax.lax.stop_gradient(x), ordered=True)


@pytest.mark.parametrize("say", [ordered_debug, ordered_io])
@pytest.mark.parametrize(
    ("tx", "chosen", "want"),
    [
        (lsam.sam(RHO), (), "ABCDABCD"),
        (lsam.layerwise_sam(None, RHO, selection=["w2"]), (), "ABCDBCD"),
        (lsam.layerwise_sam(None, RHO, selection=["w3"]), (), "ABCDCD"),
        (lsam.layerwise_sam(1, RHO), ("w2",), "ABCDBCD"),
        (lsam.layerwise_sam(1, RHO, cuts=1), ("w3",), "ABCDABCD"),
        (lsam.layerwise_sam(0, RHO), (), "ABCD"),
        (lsam.look_sam(RHO), (), "ABCDABCD"),
    ],
)
def test_effects_keep_their_order(say, tx, chosen, want):
    """What is shared is seen once; nothing is seen before what stands in front of it."""
    params, batch = network()
    seen = []

    def loss(params, batch):
        x = batch
        for letter, n in zip("ABC", ("w1", "w2", "w3")):
            x = jnp.tanh(x @ params[n])
            say(lambda letter, _: seen.append(letter), letter, x.sum())
        say(lambda letter, _: seen.append(letter), "D", batch.sum())
        return jnp.mean(x**2)

    jax.block_until_ready(step_of(loss, tx, params, batch, *chosen))
    jax.effects_barrier()
    assert "".join(seen) == want
