"""Functional-SAM and ESAM's choice of samples, which need a loss that comes in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from jax.flatten_util import ravel_pytree
from textbook import relative_error
from training import EXACT
from zoo.common import cross_entropy

import lsam_jax as lsam

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.core]

RHO, STEPS, LR = 0.1, 8, 0.1


def unit(x):
    return x / np.sqrt(np.sum(x * x))


def network():
    case = zoo.build("branches")
    w, unravel = ravel_pytree(case.params)

    def outputs(params, batch):
        return case.loss(params, batch)[1]["logits"]

    def losses(params, batch):
        log_p = jax.nn.log_softmax(outputs(params, batch))
        return -jnp.take_along_axis(log_p, batch["y"][:, None], -1)[:, 0]

    rng = np.random.default_rng(0)
    batches = [
        {"x": jnp.asarray(rng.normal(size=(8, 5))), "y": jnp.asarray(rng.integers(0, 3, 8))}
        for _ in range(4)
    ]
    return np.asarray(w), unravel, outputs, losses, batches


def square():
    """Outputs w * w * x, half their squares the loss: every derivative can be written down."""
    w = np.random.default_rng(1).normal(size=6)
    batches = [jnp.asarray(np.random.default_rng(2).normal(size=(5, 6)))]
    return (
        w,
        lambda w: w,
        lambda w, x: w * w * x,
        lambda w, x: jnp.sum((w * w * x) ** 2, 1) / 2,
        batches,
    )


def run(tx, loss_fn, w, unravel, batches, want, face):
    """Compares every direction of some steps of SGD with `want(w, batch, state)`."""
    both = lsam.value_and_grad(loss_fn, tx)

    @jax.jit
    def step(params, state, batch):
        if face == "value_and_grad":
            return both(params, state, batch)[1:]
        return tx.update(params, state, params, value_fn=loss_fn.at(batch))

    state = tx.init(unravel(w))
    for count in range(STEPS):
        batch = batches[count % len(batches)]
        direction, state = step(unravel(jnp.asarray(w)), state, batch)
        expected = want(w, batch, state)
        assert relative_error(np.asarray(ravel_pytree(direction)[0]), expected) <= EXACT
        w = w - LR * expected


@pytest.mark.parametrize("face", ["value_and_grad", "value_fn"])
def test_functional_sam_on_a_network(face):
    """The cotangent is softmax - one-hot over the batch size, at the clean weights."""
    w, unravel, outputs, _, batches = network()
    loss_fn = lsam.split_loss(outputs, lambda out, batch: cross_entropy(out, batch["y"])[0])

    @jax.jit
    def logits_of(w, batch):
        return outputs(unravel(jnp.asarray(w)), batch)

    jacobian = jax.jit(jax.jacobian(logits_of))

    def want(w, batch, state):
        logits = np.asarray(logits_of(w, batch))
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        cotangent = (p - np.eye(3)[np.asarray(batch["y"])]) / len(p)
        g = np.einsum("bk,bkn->n", cotangent, np.asarray(jacobian(w, batch)))
        return np.einsum("bk,bkn->n", cotangent, np.asarray(jacobian(w + RHO * unit(g), batch)))

    run(lsam.functional_sam(RHO), loss_fn, w, unravel, batches, want, face)


def test_functional_sam_in_closed_form():
    w, unravel, outputs, _, batches = square()
    loss_fn = lsam.split_loss(outputs, lambda out, x: jnp.mean(jnp.sum(out**2, 1)) / 2)

    def want(w, x, state):
        x = np.asarray(x)
        cotangent = (w * w * x) / len(x)
        g = np.sum(cotangent * 2 * w * x, 0)
        return np.sum(cotangent * 2 * (w + RHO * unit(g)) * x, 0)

    run(lsam.functional_sam(RHO), loss_fn, w, unravel, batches, want, "value_and_grad")


def test_functional_sam_of_a_linear_model_is_the_plain_gradient():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    loss_fn = lsam.split_loss(lambda w, x: x @ w, lambda out, x: jnp.mean(jnp.sin(out)))
    w = jnp.ones(3)
    tx = lsam.functional_sam(0.5)
    loss, direction, _ = jax.jit(lsam.value_and_grad(loss_fn, tx))(w, tx.init(w), x)
    assert relative_error(direction, jax.grad(loss_fn)(w, x)) <= EXACT
    assert loss == pytest.approx(float(loss_fn(w, x)), rel=1e-12)


@pytest.mark.slow
def test_layers_may_be_chosen_and_aux_is_clean():
    """Layer-wise Functional-SAM: only the last kernel moves; aux is the user's."""
    w, unravel, outputs, _, batches = network()
    loss_fn = lsam.split_loss(
        outputs, lambda out, batch: (cross_entropy(out, batch["y"])[0], {"out": out})
    )
    tx = lsam.functional_sam(RHO, selection=["join/w"], layers="kernel")
    params = unravel(w)
    step = jax.jit(lsam.value_and_grad(loss_fn, tx, has_aux=True))
    (loss, aux), direction, state = step(params, tx.init(params), batches[0])
    g = jax.grad(loss_fn, has_aux=True)(params, batches[0])[0]
    moved = {**params, "join": {**params["join"]}}
    moved["join"]["w"] = params["join"]["w"] + RHO * unit(g["join"]["w"])
    clean, pull = outputs(params, batches[0]), jax.vjp(lambda p: outputs(p, batches[0]), moved)[1]
    (want,) = pull(jax.grad(lambda out: cross_entropy(out, batches[0]["y"])[0])(clean))
    for got, expected in zip(jax.tree.leaves(direction), jax.tree.leaves(want), strict=True):
        assert relative_error(got, expected) <= EXACT
    assert relative_error(aux["out"], clean) <= EXACT
    assert list(aux) == ["out"]
    assert loss == pytest.approx(float(loss_fn(params, batches[0])[0]), rel=1e-12)
    assert state.sharpness > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("face", "beta", "gamma"), [("value_and_grad", 0.6, 0.5), ("value_fn", 1.0, 0.25)]
)
def test_esam_descends_on_the_samples_that_it_hurts(face, beta, gamma):
    w, unravel, _, losses, batches = network()
    sizes = [np.size(x) for x in jax.tree.leaves(unravel(w))]
    each = jax.jit(lambda w, batch: losses(unravel(w), batch))
    jacobian = jax.jit(jax.jacobian(each))

    def want(w, batch, state):
        mask = np.repeat(np.asarray(state.selected), sizes)
        g = mask * np.mean(np.asarray(jacobian(w, batch)), 0)
        there = w + RHO / beta * unit(g) if mask.any() else w
        rise = np.asarray(each(there, batch)) - np.asarray(each(w, batch))
        worst = np.argsort(-rise, kind="stable")[: round(gamma * len(rise))]
        return np.mean(np.asarray(jacobian(there, batch))[worst], 0)

    tx = lsam.esam(RHO, beta, gamma, seed=1)
    run(tx, lsam.per_sample(losses), w, unravel, batches, want, face)


def test_esam_in_closed_form():
    w, unravel, _, losses, batches = square()

    def want(w, x, state):
        x = np.asarray(x)
        gradients = lambda w: 2 * w**3 * x**2  # noqa: E731
        there = w + RHO * unit(gradients(w).mean(0))
        rise = np.sum((there**4 - w**4) * x**2, 1) / 2
        return gradients(there)[np.argsort(-rise)[:2]].mean(0)

    tx = lsam.esam(RHO, 1.0, 0.4)
    run(tx, lsam.per_sample(losses), w, unravel, batches, want, "value_and_grad")


def test_esam_of_all_is_sam():
    w, unravel, _, losses, batches = network()
    params, loss_fn = unravel(w), lsam.per_sample(losses)
    both = [lsam.esam(RHO, 1.0, 1.0), lsam.esam(RHO, 1.0, 1 - 1e-9), lsam.sam(RHO)]
    got = [
        jax.jit(lsam.value_and_grad(loss_fn, tx))(params, tx.init(params), batches[0])
        for tx in both
    ]
    for other in got[:2]:
        for a, b in zip(jax.tree.leaves(other[1]), jax.tree.leaves(got[2][1]), strict=True):
            assert relative_error(a, b) <= EXACT


def test_esam_backpropagates_chosen_samples_only():
    """With counted operations: the last gradient is that of half the batch."""
    n = 64
    w, x = {"a": jnp.ones((n, n)), "b": jnp.ones((n, n))}, jnp.ones((n, n))

    def losses(w, x):
        return jnp.sum((jnp.tanh(x @ w["a"]) @ w["b"]) ** 2, 1)

    def flops(fun, *args):
        return jax.jit(fun).lower(*args).compile().cost_analysis()["flops"]

    loss_fn = lsam.per_sample(losses)
    plain = flops(jax.value_and_grad(loss_fn), w, x)
    forward = flops(loss_fn, w, x)
    for gamma in (0.25, 0.5):
        tx = lsam.esam(RHO, 1.0, gamma)
        cost = flops(lsam.value_and_grad(loss_fn, tx), w, tx.init(w), x)
        assert cost == pytest.approx((1 + gamma) * plain + forward, rel=0.04)


def test_plain_losses_are_refused():
    w, x = jnp.ones(3), jnp.ones((2, 3))

    def plain(w, x):
        return jnp.sum(x @ w)

    for tx, words in ((lsam.functional_sam(RHO), "split_loss"), (lsam.esam(RHO), "per_sample")):
        with pytest.raises(TypeError, match=words):
            lsam.value_and_grad(plain, tx)(w, tx.init(w), x)
        with pytest.raises(ValueError, match="value_fn"):
            tx.update(w, tx.init(w), w, grad_fn=jax.grad(lambda w: plain(w, x)))
    tx = lsam.esam(RHO)
    with pytest.raises(TypeError, match=r"\[B\]"):
        lsam.value_and_grad(lsam.per_sample(plain), tx)(w, tx.init(w), x)
    for bad in (0, (), "x"):
        with pytest.raises(ValueError, match="argnums"):
            lsam.per_sample(plain, argnums=bad)


def test_any_method_takes_losses_in_parts():
    w, unravel, outputs, losses, batches = network()
    params = unravel(w)
    split = lsam.split_loss(outputs, lambda out, batch: cross_entropy(out, batch["y"])[0])
    tx = lsam.sam(RHO)
    steps = [
        jax.jit(lsam.value_and_grad(loss_fn, tx))(params, tx.init(params), batches[0])[1]
        for loss_fn in (split, lsam.per_sample(losses))
    ]
    for a, b in zip(*map(jax.tree.leaves, steps), strict=True):
        assert relative_error(a, b) <= EXACT


IN_PARTS = {
    "functional_sam": (
        lsam.functional_sam,
        lambda aux: lsam.split_loss(lambda w: w, lambda o: aux(jnp.sum(o**2), o)),
    ),
    "esam": (lsam.esam, lambda aux: lsam.per_sample(lambda w, x: aux(x @ w, w))),
}


@pytest.mark.parametrize("name", IN_PARTS)
def test_aux_must_be_as_it_is_said(name):
    make, of = IN_PARTS[name]
    tx, w = make(), jnp.ones(1)
    batch = (jnp.ones((4, 1)),) if name == "esam" else ()
    with pytest.raises(TypeError, match="has_aux=True"):
        lsam.value_and_grad(of(lambda loss, aux: (loss, aux)), tx)(w, tx.init(w), *batch)
    with pytest.raises(TypeError, match=r"must return \(loss, aux\)"):
        lsam.value_and_grad(of(lambda loss, aux: loss), tx, True)(w, tx.init(w), *batch)


def test_samples_are_passed_by_position():
    tx, w = lsam.esam(beta=1.0), jnp.ones(1)
    loss_fn = lsam.per_sample(lambda w, x: x @ w)
    with pytest.raises(ValueError, match=r"argnums=\(1,\).*by position"):
        lsam.value_and_grad(loss_fn, tx)(w, tx.init(w), x=jnp.ones((4, 1)))


def test_functional_sam_of_complex_outputs():
    """As of the same outputs in two real parts."""
    rng = np.random.default_rng(0)
    w, x = jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=(5, 3)))
    turn = jnp.exp(1j * jnp.arange(2))

    def outputs(w, x):
        return jnp.tanh(x @ w) * turn + 1j * (x @ w) ** 2

    def loss(out, x):
        return jnp.sum(jnp.abs(out - (1 + 2j)) ** 2 * (1 + out.real**2))

    tx = lsam.functional_sam(RHO)
    pairs = lsam.split_loss(
        lambda w, x: (outputs(w, x).real, outputs(w, x).imag),
        lambda out, x: loss(out[0] + 1j * out[1], x),
    )
    (value, got, _), (_, want, _) = (
        jax.jit(lsam.value_and_grad(loss_fn, tx))(w, tx.init(w), x)
        for loss_fn in (lsam.split_loss(outputs, loss), pairs)
    )
    assert float(value) == pytest.approx(float(loss(outputs(w, x), x)), rel=1e-12)
    assert relative_error(np.asarray(got), np.asarray(want)) <= EXACT
