"""Losses that use what JAX offers keep working under the engine, and stay exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from three_layers import CHOICES, WIDTH, assert_one_step, state_selecting, three_layers
from training import RHO, assert_same

import lsam_jax as lsam

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.core]


@jax.custom_vjp
def clipped_identity(x):
    """Its gradient is not that of an identity: it is clipped."""
    return x


clipped_identity.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -0.02, 0.02),))


@jax.custom_jvp
def softplus(x):
    return jnp.logaddexp(x, 0.0)


softplus.defjvp(lambda x, t: (softplus(x[0]), t[0] * jax.nn.sigmoid(x[0])))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def dense(scale, x, w):
    """A layer whose weight is differentiated by hand, at twice its gradient."""
    return scale * (x @ w)


def dense_forward(scale, x, w):
    return dense(scale, x, w), (x, w)


def dense_backward(scale, saved, ct):
    x, w = saved
    return scale * (ct @ w.T), 2 * scale * (x.T @ ct)


dense.defvjp(dense_forward, dense_backward)


def straight_through(x):
    return x + jax.lax.stop_gradient(jnp.round(4 * x) / 4 - x)


def dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)


def stochastic_while(x, key):
    """A loop that nobody differentiates, a cond that is."""
    noise = jax.lax.fori_loop(0, 3, lambda i, n: n + jax.random.normal(key, n.shape), 0 * x)
    noisy = x + 0.1 * jax.lax.stop_gradient(noise)
    return jax.lax.cond(jnp.sum(x) > 0, jnp.sin, jnp.tanh, noisy)


def weights_in_a_cond(x, w, key):
    return jax.lax.cond(jnp.sum(x) > 0, lambda x, w: jnp.tanh(x @ w), lambda x, w: x, x, w)


def routed(x, w, key):
    """Whole numbers made of activations, before and behind the weight."""
    before, behind = jnp.argmax(x, -1), jnp.argsort(x @ w, axis=-1)
    return jnp.take_along_axis(jnp.roll(x @ w, 1), behind, -1) * jnp.cos(before[:, None])


def gradient_penalty(x, w, key):
    """The loss contains a gradient: the engine differentiates twice."""
    slope = jax.vmap(jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w) ** 2)))(x)
    return jnp.tanh(x @ w) + slope


def several_at_once(x, w, key):
    return jax.vmap(lambda x: jnp.tanh(jax.lax.map(lambda c: c * x, jnp.arange(3.0)).sum(0) @ w))(x)


MIDDLES = {
    "custom_vjp": lambda x, w, key: clipped_identity(jnp.tanh(x @ w)),
    "custom_vjp of a weight": lambda x, w, key: jnp.tanh(dense(0.9, x, w)),
    "custom_jvp": lambda x, w, key: softplus(x @ w),
    "random keys": lambda x, w, key: dropout(jnp.tanh(x @ w), key),
    "split keys": lambda x, w, key: dropout(x @ w, jax.random.split(key, 3)[1]),
    "raw keys": lambda x, w, key: dropout(x @ w, jax.random.PRNGKey(3)),
    "stop_gradient": lambda x, w, key: straight_through(x @ w),
    "control flow": lambda x, w, key: stochastic_while(x @ w, key),
    "weights in a cond": weights_in_a_cond,
    "routing": routed,
    "gradient penalty": gradient_penalty,
    "vmap and map": several_at_once,
    "named scope": jax.named_scope("middle")(lambda x, w, key: jnp.tanh(x @ w)),
    "linear solve": lambda x, w, key: jnp.linalg.solve(3 * jnp.eye(WIDTH) + w, x.T).T,
    "sorted": lambda x, w, key: jnp.sort(x @ w, axis=-1),
    "complex inside": lambda x, w, key: jnp.abs(jnp.fft.fft(x @ w)),
}


@pytest.mark.slow
@pytest.mark.parametrize("middle", MIDDLES)
def test_in_the_middle_of_a_network(middle):
    params, batch, loss = three_layers(MIDDLES[middle])
    assert_one_step(params, batch, loss, *CHOICES[:2])


def test_sharding_constraints():
    """The batch lies on four devices, and the loss says so in the middle; also inside a jit that
    fixes its shardings."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("batch",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    pinned = jax.jit(jnp.tanh, in_shardings=rows, out_shardings=rows)

    def middle(x, w, key):
        x = jax.lax.with_sharding_constraint(x, rows)
        return pinned(jax.lax.with_sharding_constraint(x @ w, rows))

    params, batch, loss = three_layers(middle)
    params = jax.device_put(params, everywhere)
    batch = {**batch, "x": jax.device_put(batch["x"], rows), "y": jax.device_put(batch["y"], rows)}
    batch["key"] = jax.device_put(batch["key"], everywhere)
    assert_one_step(params, batch, loss, *CHOICES)


@pytest.mark.slow
def test_keyword_and_static_arguments():
    params, batch, loss = three_layers(MIDDLES["custom_jvp"])
    tx = lsam.layerwise_sam(1, RHO)

    def with_more(params, x, scale, *, y, key, name):
        assert name == "static"
        value, aux = loss(params, {"x": x, "y": y, "key": key})
        return scale * value, aux

    step = jax.jit(lsam.value_and_grad(with_more, tx, has_aux=True), static_argnames="name")
    y, key = batch["y"], batch["key"]
    got = step(params, tx.init(params), batch["x"], 2.0, y=y, key=key, name="static")
    twice = jax.jit(
        lsam.value_and_grad(lambda p, b: (2 * loss(p, b)[0], loss(p, b)[1]), tx, has_aux=True)
    )
    assert_same(got, twice(params, tx.init(params), batch))


@pytest.mark.parametrize(
    ("chosen", "ordered"), [(CHOICES[0], True), (CHOICES[1], False), (CHOICES[2], True)]
)
def test_debug_print_prints_the_clean_pass(capfd, ordered, chosen):
    """Each line is printed, with the numbers of the clean pass, once at least: a layer that is
    computed twice prints twice, and no line comes from a branch that is not taken."""

    def middle(x, w, key):
        jax.debug.print("before {}", x.sum(), ordered=ordered)
        x = jnp.tanh(x @ w)
        jax.debug.print("behind {}", x.sum(), ordered=ordered)
        return x

    params, batch, loss = three_layers(middle)
    jax.block_until_ready(jax.jit(loss)(params, batch))
    jax.effects_barrier()
    clean = capfd.readouterr().out.split("\n")[:2]
    assert [line.split()[0] for line in clean] == ["before", "behind"]
    tx = lsam.layerwise_sam(len(chosen), RHO)
    step = jax.jit(lsam.value_and_grad(loss, tx, has_aux=True))
    jax.block_until_ready(step(params, state_selecting(tx, params, *chosen), batch))
    jax.effects_barrier()
    printed = [line for line in capfd.readouterr().out.split("\n") if line]
    number = {
        word: [float(p.split()[1]) for p in printed if p.split()[0] == word]
        for word in ("before", "behind")
    }
    for word, line in zip(("before", "behind"), clean, strict=True):
        assert any(abs(n - float(line.split()[1])) < 1e-6 for n in number[word]), printed
        assert 1 <= len(number[word]) <= 2
    assert len(number["before"]) == (2 if "m_in" in chosen else 1)


def test_an_auxiliary_callback_runs():
    """A host callback whose result is used."""
    seen = []

    def note(x):
        seen.append(float(x))
        return np.asarray(x)

    def middle(x, w, key):
        total = jax.lax.stop_gradient(x.sum())
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jnp.tanh(x @ w) * jnp.cos(0.1 * jax.pure_callback(note, shape, total))

    params, batch, loss = three_layers(middle)
    assert_one_step(params, batch, loss, ("a_head",))
    assert seen


def from_stopped(p, x):
    stop = jax.lax.stop_gradient
    start = stop(jnp.max(jnp.abs(x @ p["a"])))
    size = jax.lax.while_loop(
        lambda size: size * stop(jnp.sum(p["b"])) > 1, lambda size: size / 2, start
    )
    return jnp.mean((x @ p["a"] @ p["b"] * size) ** 2)


@jax.checkpoint
def from_a_constant(p, x):
    least = jnp.max(jax.lax.stop_gradient(p["b"]), axis=0)
    size = jax.lax.while_loop(
        lambda size: jnp.any(size * least > 1), lambda size: size / 2, jnp.ones(3)
    )
    return jnp.mean((x @ p["a"] @ p["b"] * size) ** 2)


@pytest.mark.parametrize("loss", [from_stopped, from_a_constant])
@pytest.mark.parametrize("selection", ["high", ["b"], ["a"]])
def test_a_loop_of_unknown_length_behind_a_cut(loss, selection):
    p, x = {"a": jnp.eye(3), "b": 1.5 * jnp.eye(3)}, jnp.arange(6.0).reshape(2, 3)
    tx = lsam.layerwise_sam(1 if selection == "high" else None, 0.1, selection=selection)
    _, found, state = jax.jit(lsam.value_and_grad(loss, tx))(p, tx.init(p), x)
    g = jax.grad(loss)(p, x)
    moved = {n: p[n] + 0.1 * g[n] * s for n, s in zip("ab", state.selected)}
    expected = jax.grad(loss)(moved, x)
    for n in p:
        np.testing.assert_allclose(found[n], expected[n], rtol=1e-10)
    assert state.selected.sum() == 1
