"""Losses that cannot be traced before they are differentiated: two gradients as they are."""

import family
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from family_steps import Batched, masks
from family_textbook import Problem
from jax.flatten_util import ravel_pytree
from textbook import named, relative_error
from training import assert_same
from untraceable import CLOSING, EAGER, network, problem

import lsam_jax as lsam

pytestmark = [
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore:.*two gradients:UserWarning"),
]

RHO, EXACT = 0.3, 1e-10
LAYERWISE = {
    "layerwise_sam": lambda: lsam.layerwise_sam(1, RHO, 0.8, normalize=True),
    "fixed": lambda: lsam.layerwise_sam(None, RHO, 0.8, selection=["join/w"]),
    "nothing": lambda: lsam.layerwise_sam(0, RHO),
}
FAMILY = (
    *("sam", "generalized_sam", "asam", "gsam", "look_sam", "ae_sam", "momentum_sam"),
    *("adazo_sam", "esam", "sparse_sam_dynamic", "gam", "sl_sam", "layerwise_look_sam"),
)
METHODS = {
    **{name: (family.TABLE[name].make, "plain") for name in FAMILY},
    **{name: (make, "plain") for name, make in LAYERWISE.items()},
    "functional_sam": (lambda: lsam.functional_sam(RHO), "split"),
    "esam of samples": (lambda: lsam.esam(RHO, 0.6, 0.5), "per_sample"),
}

IN_A_CHAIN = (
    *("sam", "generalized_sam", "asam", "gsam", "look_sam", "momentum_sam"),
    *("layerwise_sam", "fixed", "adazo_sam"),
)


def loss_in(kind, losses):
    """With aux: a number that depends on all, and a string."""
    if kind == "per_sample":
        return lsam.per_sample(lambda p, x: (losses(p, x), (jnp.sum(losses(p, x)), "aux")))
    if kind == "split":
        return lsam.split_loss(losses, lambda out, x: (jnp.mean(out), (jnp.sum(out), "aux")))
    return lambda p, x: (jnp.mean(losses(p, x)), (jnp.sum(losses(p, x)), "aux"))


def value_of(losses):
    return lambda p, x: jnp.mean(losses(p, x))


def run(tx, loss_fn, jit, steps=3):
    """Steps by `value_and_grad`, and one in a chain."""
    params, batches = problem()
    step = lsam.value_and_grad(loss_fn, tx, has_aux=True)

    def first(params, state, x):  # without the string, which jit does not return
        (value, (number, _)), *rest = step(params, state, x)
        return (value, number), *rest

    first = jax.jit(first) if jit else first
    state = tx.init(params)
    for n in range(steps):
        value, direction, state = first(params, state, batches[n % 2])
        yield value, direction, state
        params = jax.tree.map(lambda w, d: w - 0.1 * d, params, direction)


def in_a_chain(tx, losses, jit):
    params, batches = problem()
    optimizer = optax.chain(tx, optax.sgd(0.1))

    def update(params, state, x):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optimizer.update(
            zeros, state, params, value_fn=lambda p: value_of(losses)(p, x), ignored=1
        )

    return (jax.jit(update) if jit else update)(params, optimizer.init(params), batches[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_closing_over_a_value_is_like_having_it_as_an_argument(name):
    """Loss, aux, direction and state are those of the engine on the twin."""
    make, kind = METHODS[name]
    own, twin = (network(middle) for middle in CLOSING["custom_vjp"])
    for got, want in zip(
        run(make(), loss_in(kind, own), True), run(make(), loss_in(kind, twin), True)
    ):
        assert_same(got, want, EXACT)
    if name in IN_A_CHAIN:
        assert_same(in_a_chain(make(), own, True), in_a_chain(make(), twin, True), EXACT)


EAGERLY = ("sam", "layerwise_sam", "look_sam", "ae_sam", "momentum_sam")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EAGERLY, "functional_sam", "esam of samples"])
def test_python_control_flow_outside_jit(name):
    make, kind = METHODS[name]
    own, twin = (network(middle) for middle in EAGER["a branch on the batch"])
    for got, want in zip(
        run(make(), loss_in(kind, own), False), run(make(), loss_in(kind, twin), True)
    ):
        assert_same(got, want, EXACT)
    if name in IN_A_CHAIN:
        assert_same(in_a_chain(make(), own, False), in_a_chain(make(), twin, True), EXACT)


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.parametrize(
    ("middle", "jit"),
    [
        *[(m, jit) for m in CLOSING.values() for jit in (True, False)],
        *[(m, False) for m in EAGER.values()],
    ],
    ids=[*[f"{n} {jit}" for n in CLOSING for jit in ("jit", "eager")], *EAGER],
)
def test_what_else_cannot_be_traced(middle, jit):
    tx = lsam.layerwise_sam(1, RHO, 0.8)
    own, twin = map(network, middle)
    for got, want in zip(run(tx, loss_in("", own), jit), run(tx, loss_in("", twin), True)):
        assert_same(got, want, EXACT)


BY_HAND = ("sam", "generalized_sam", "look_sam", "momentum_sam", "adazo_sam")


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("middle", ["custom_vjp", "a branch on the batch"])
def test_like_the_textbook(name, middle):
    """Against `jax.grad` of the very same loss."""
    own, _ = ({**CLOSING, **EAGER})[middle]
    jit = middle in CLOSING
    params, batches = problem()
    value = value_of(network(own))
    w, unravel = ravel_pytree(params)
    both = jax.value_and_grad(lambda w, x: value(unravel(w), x))
    both = jax.jit(both) if jit else both
    loss = Batched(lambda w, x: float(both(jnp.asarray(w), x)[0]), batches)
    gradient = Batched(lambda w, x: np.asarray(both(jnp.asarray(w), x)[1]), batches)
    layers, arrays = masks(params, ("deep/1/w", "join/w"))
    want = family.TABLE[name].want(
        Problem(loss, gradient, layers, arrays, tuple(layers), None, None), tuple(layers)
    )
    tx = family.TABLE[name].make()
    step, state, w = lsam.value_and_grad(value, tx), tx.init(params), np.asarray(w)
    step = jax.jit(step) if jit else step
    for count in range(4):
        loss.count = gradient.count = count
        got, direction, state = step(unravel(jnp.asarray(w)), state, batches[count % 2])
        expected = want(w, count)
        assert relative_error(np.asarray(ravel_pytree(direction)[0]), expected) <= 1e-9
        assert family.TABLE[name].clean is False or abs(got - loss(w)) <= 1e-9
        w = w - 0.1 * expected


@pytest.mark.parametrize("name", ["layerwise_sam", "fixed"])
@pytest.mark.parametrize("jit", [True, False])
def test_layerwise_by_hand(name, jit):
    """Two calls of `jax.grad`; at first the last layer is chosen, and then the larger norm."""
    params, batches = problem()
    value = value_of(network(CLOSING["custom_vjp"][0]))
    tx = LAYERWISE[name]()
    step = lsam.value_and_grad(value, tx)
    step = jax.jit(step) if jit else step
    state, chosen = tx.init(params), "join/w"
    for n in range(3):
        x = batches[n % 2]
        loss, g = jax.value_and_grad(value)(params, x)
        size = np.linalg.norm(named(g)[chosen]) if name == "layerwise_sam" else 1.0
        scale = {k: RHO / size if k == chosen else 0.0 for k in named(params)}
        moved = [w + scale[k] * d for (k, w), d in zip(named(params).items(), named(g).values())]
        h = jax.grad(value)(jax.tree.unflatten(jax.tree.structure(params), moved), x)
        pairs = zip(named(g).items(), named(h).values())
        want = {k: 0.2 * u + 0.8 * v if k == chosen else v for (k, u), v in pairs}
        got, direction, state = step(params, state, x)
        assert abs(got - loss) <= 1e-9
        for a, b in zip(named(direction).values(), want.values()):
            assert relative_error(a, b) <= 1e-9
        norms = {k: np.linalg.norm(v) for k, v in named(h).items() if v.ndim > 1}
        chosen = max(norms, key=norms.get) if name == "layerwise_sam" else chosen
