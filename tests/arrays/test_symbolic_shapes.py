"""A step exported for any batch size (`jax.export`, symbolic shapes) is the step itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from jax import export
from refusals import refused

import lsam_jax as lsam
from lsam_jax.arrays import symbolic

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("x64")]

SIZES = ((2, 3), (5, 4))  # of batch and sequence


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def dense():
    def loss(p, x):
        for name in ("w0", "w1"):
            x = jnp.tanh(x @ p[name] + p["b"])
        return jnp.mean((x @ p["w2"]) ** 2)

    params = {f"w{i}": normal(i, 6, 6) / 2 for i in range(3)} | {"b": normal(9, 6)}
    return loss, params, ("batch", 6)


def convolutional():
    def loss(p, x):
        for name in ("w0", "w1"):
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, p[name], (2, 2), "SAME", dimension_numbers=numbers)
            x = jnp.tanh(x)
        return jnp.mean((x.reshape(x.shape[0], -1) @ p["w2"]) ** 2)

    params = {"w0": normal(0, 3, 3, 2, 4) / 3, "w1": normal(1, 3, 3, 4, 4) / 4}
    return loss, params | {"w2": normal(2, 16, 2)}, ("batch", 8, 8, 2)


def stacked(checkpoint=False):
    def block(h, w):
        return jnp.tanh(h @ w["w"] + w["b"]), None

    def loss(p, x):
        body = jax.checkpoint(block) if checkpoint else block
        x, _ = jax.lax.scan(body, x, p["blocks"])
        return jnp.mean((x @ p["head"]) ** 2)

    blocks = {"w": normal(0, 4, 6, 6) / 2, "b": normal(1, 4, 6)}
    return loss, {"blocks": blocks, "head": normal(2, 6, 2)}, ("batch", 6)


def attention():
    """Two symbolic sizes, a mask made of one of them, learned tokens repeated for the batch."""

    def loss(p, x):
        batch, length = x.shape[:2]
        tokens = [jnp.broadcast_to(p["tokens"][i], (batch, 1, 6)) for i in range(2)]
        x = jnp.concatenate([*tokens, x], 1)
        mask = jnp.tril(jnp.ones((length + 2, length + 2), bool))
        scores = jnp.einsum("bid,bjd->bij", x @ p["q"], x @ p["k"])
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        return jnp.mean((weights @ (x @ p["v"]) @ p["w"]) ** 2)

    params = {name: normal(n, 6, 6) for n, name in enumerate("qkvw")}
    return loss, params | {"tokens": normal(9, 2, 6)}, ("batch", "length", 6)


def recurrent():
    """A scan of symbolic length."""

    def loss(p, x):
        def cell(h, x):
            h = jnp.tanh(x @ p["w0"] + h @ p["w1"])
            return h, h

        _, h = jax.lax.scan(cell, jnp.zeros_like(x[:, 0]), jnp.moveaxis(x, 1, 0))
        return jnp.mean((jnp.tanh(h @ p["w2"]) @ p["w3"]) ** 2)

    return loss, {f"w{i}": normal(i, 6, 6) for i in range(4)}, ("batch", "length", 6)


def repeated():
    """A scan over parameters that are joined, each as often as there are samples."""

    def loss(p, x):
        rows = [jnp.broadcast_to(p[name], (x.shape[0], 6)) for name in ("r0", "r1")]
        body = lambda h, row: (jnp.tanh(h @ p["w"] + row), None)  # noqa: E731
        h, _ = jax.lax.scan(body, jnp.ones(6), jnp.concatenate(rows))
        return jnp.mean((x * h @ p["head"]) ** 2)

    params = {"r0": normal(0, 6), "r1": normal(1, 6), "w": normal(2, 6, 6)}
    return loss, params | {"head": normal(3, 6, 2)}, ("batch", 6)


LAYERWISE = {"k": 1, "rho": 0.1, "alpha": 0.8}
SLICES = {"layers": lsam.stacked("blocks")}
CASES = {
    "sam": (dense, lsam.sam(0.1)),
    "auto": (dense, lsam.layerwise_sam(**LAYERWISE)),
    "no gates": (dense, lsam.layerwise_sam(**LAYERWISE, gate=False)),
    "one cut": (dense, lsam.layerwise_sam(**LAYERWISE, cuts=1)),
    "named cut": (dense, lsam.layerwise_sam(**LAYERWISE, cuts=["w1"])),
    "budget": (dense, lsam.layerwise_sam(**LAYERWISE, selection=lsam.budget(0.9))),
    "sl_sam": (dense, lsam.sl_sam(0.1, 0.5)),
    "look_sam": (dense, lsam.look_sam(0.1, 2, k=1, selection="high", layers="kernel")),
    "esam": (dense, lsam.esam(0.1, gamma=1)),
    "convolutional": (convolutional, lsam.layerwise_sam(**LAYERWISE)),
    "convolutional sl_sam": (convolutional, lsam.sl_sam(0.1, 0.5)),
    "stacked": (stacked, lsam.layerwise_sam(**LAYERWISE, **SLICES)),
    "stacked checkpoint": (lambda: stacked(True), lsam.layerwise_sam(**LAYERWISE, **SLICES)),
    "attention": (attention, lsam.layerwise_sam(**LAYERWISE)),
    "recurrent": (recurrent, lsam.layerwise_sam(**LAYERWISE)),
    "repeated": (repeated, lsam.layerwise_sam(**LAYERWISE, layers="array")),
}
TWICE = ("auto", "convolutional", "stacked", "attention")  # the others are called at one size


def symbolic_batch(shape):
    names = ", ".join(n for n in shape if isinstance(n, str))
    sizes = dict(zip(names.split(", "), export.symbolic_shape(names)))
    return jax.ShapeDtypeStruct(tuple(sizes.get(n, n) for n in shape), jnp.float64)


def batches(shape, sizes=SIZES):
    for batch, length in sizes:
        known = {"batch": batch, "length": length}
        yield normal(batch, *(known.get(n, n) for n in shape))


def numbers(step):
    """The step with the leaves of its states, since export knows no NamedTuple of ours."""
    return jax.jit(lambda *args: jax.tree.leaves(step(*args)))


def same(got, want):
    for a, b in zip(got, want, strict=True):
        exact = 1e-9 if a.dtype == np.float64 else 1e-6
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=exact, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_exported_for_any_batch_size(case):
    (loss, params, shape), tx = CASES[case][0](), CASES[case][1]
    step, state = numbers(lsam.value_and_grad(loss, tx)), tx.init(params)
    exported = export.export(step)(params, state, symbolic_batch(shape))
    for x in batches(shape, SIZES if case in TWICE else SIZES[:1]):
        same(exported.call(params, state, x), step(params, state, x))


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["high", ["w1", "b"]])
def test_exported_equals_two_gradients(selection):
    loss, params, shape = dense()
    tx = lsam.layerwise_sam(1, 0.1, 0.8, selection=selection, layers="array")
    state = tx.init(params)
    step = lsam.value_and_grad(loss, tx)
    exported = export.export(jax.jit(lambda p, x: step(p, state, x)[:2]))(
        params, symbolic_batch(shape)
    )
    chosen = {"w2"} if selection == "high" else set(selection)
    for x in batches(shape):
        got = exported.call(params, x)
        value = jax.value_and_grad(lambda p, x: (loss(p, x), ()), has_aux=True)
        layer_of = {name: name for name in params}
        want = textbook.step(value, params, x, chosen, 0.1, 0.8, layer_of=layer_of)
        assert got[0] == pytest.approx(float(want.loss), rel=1e-9)
        for name, direction in want.direction.items():
            assert textbook.relative_error(got[1][name], direction) < 1e-9


def test_in_a_chain_and_written_to_bytes():
    """The whole step of training, read back elsewhere."""
    pytest.importorskip("flatbuffers")
    loss, params, shape = dense()
    optimizer = optax.chain(lsam.layerwise_sam(2, 0.1), optax.adam(0.1))
    treedef = jax.tree.structure(optimizer.init(params))

    def step(params, leaves, x):
        state = jax.tree.unflatten(treedef, leaves)
        clean, value_fn = jax.tree.map(jnp.zeros_like, params), lambda p: loss(p, x)
        updates, state = optimizer.update(clean, state, params, value_fn=value_fn)
        return optax.apply_updates(params, updates), jax.tree.leaves(state)

    leaves = jax.tree.leaves(optimizer.init(params))
    exported = export.export(jax.jit(step))(params, leaves, symbolic_batch(shape))
    exported = export.deserialize(exported.serialize())
    got = want = params, leaves
    for x in batches(shape):
        got, want = exported.call(*got, x), jax.jit(step)(*want, x)
        same(*map(jax.tree.leaves, (got, want)))


def test_inspected_as_at_a_large_batch():
    """A symbolic size counts as a number, so costs and cuts are those of a batch of that size."""
    loss, params, (_, width) = dense()
    got = lsam.inspect(loss, params, symbolic_batch(("batch", width)))
    want = lsam.inspect(loss, params, jax.ShapeDtypeStruct((symbolic.ASSUMED, width), jnp.float64))
    assert str(got) == str(want)
    width = export.symbolic_shape("width")[0]
    wide = {"a": jax.ShapeDtypeStruct((2, width), jnp.float64), "b": normal(0, 3, 2)}
    rows = lsam.inspect(lambda p: jnp.sum((p["b"] @ p["a"]) ** 2), wide).rows()
    assert {row[:3] for row in rows} == {("a", "2xwidth", "256"), ("b", "3x2", "6")}


SYMBOLIC = {
    "b": 128,
    "in": 128,  # a word of Python
    "2*b + 1": 257,
    "b*s - 100": 16284,
    "b^2*s": 128**3,
    "b - 1000": 1,  # no size is below 1
    "floordiv(b, 3)": 42,
    "mod(b + s, 3)": 1,
    "max(b, 200) + min(b, 100)": 300,
    "max(floordiv(b_1, 2), 7)": 64,
}


@pytest.mark.parametrize("size", SYMBOLIC)
def test_a_number_for_a_symbolic_size(size):
    assert symbolic.count(export.symbolic_shape(size)[0]) == SYMBOLIC[size]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (lsam.esam(0.1, gamma=0.5), {}, ("esam(gamma=0.5)", "batch", "gamma=1")),
        (lsam.sam(0.1), {"m": 2}, ("m=2", "batch", "leave m out")),
    ],
)
def test_what_needs_a_number_of_samples_is_refused(method, options, words):
    losses = lsam.per_sample(lambda p, x: jnp.mean((x @ p) ** 2, 1))
    step = jax.jit(lsam.value_and_grad(losses, method, **options))
    params = normal(0, 6, 2)
    with refused(ValueError, *words):
        export.export(step)(params, method.init(params), symbolic_batch(("batch", 6)))


def test_losses_and_fisher_of_samples():
    """What takes samples one by one needs no number of them."""
    losses = lsam.per_sample(lambda p, x: jnp.mean(jnp.tanh(x @ p) ** 2, 1))
    params, tx = normal(0, 6, 2), lsam.sam(0.1)

    def both(params, x):
        direction = lsam.value_and_grad(losses, tx)(params, tx.init(params), x)[:2]
        return direction, lsam.empirical_fisher(losses, params, x)

    step = numbers(both)
    exported = export.export(step)(params, symbolic_batch(("batch", 6)))
    for x in batches(("batch", 6)):
        same(exported.call(params, x), step(params, x))
