"""`jax.numpy_dtype_promotion("strict")` and `jax.numpy_rank_promotion("raise")` change nothing.

They act while a step is traced, so its program says it all: with them it is the one without them,
and so are its results, to the bit.
"""

import contextlib
import dataclasses
import re
from typing import Any

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from contract import METHODS

import lsam_jax as lsam
from lsam_jax import diagnostics

DTYPES = ("float32", "bfloat16", "float16", "mixed")
# Parameters of a half type and of float32 meet what parameters of one type do; the half types
# alone are tried with SAM, with layers chosen, and with what draws single weights or samples.
HALF = ("sam", "layerwise_sam", "sparse_sam_dynamic", "esam_weights")


@contextlib.contextmanager
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def parameters(dtype):
    params = contract.parameters("float32" if dtype == "mixed" else dtype)
    if dtype == "mixed":
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        params["a"]["w"] = params["a"]["w"].astype(jnp.float32)
    return params


def outputs(p, x, y):
    """Master weights in any type, the network in float32; promotes nothing by itself."""
    p = jax.tree.map(lambda w: w.astype(jnp.float32), p)
    h = jnp.tanh(x @ p["a"]["w"] + p["a"]["b"][None]) * p["norm"]["scale"][None]
    return h @ p["z"]["w"]


def losses(p, x, y):
    return jnp.sum((outputs(p, x, y) - y) ** 2, 1)


def loss(p, x, y):
    return jnp.mean(losses(p, x, y))


LOSSES = {
    "plain": loss,
    "split": lsam.split_loss(outputs, lambda out, x, y: jnp.mean(jnp.sum((out - y) ** 2, 1))),
    "per_sample": lsam.per_sample(losses, argnums=(1, 2)),
}


def batch():
    return tuple(x.astype(jnp.float32) for x in contract.batch())


def program(fun, *args):
    """Every equation: what it does, to what, of which types; without places in memory."""
    return listing(jax.make_jaxpr(fun)(*args).jaxpr)


def listing(jaxpr):
    numbers = {}

    def operand(v):
        known = str(v.val) if hasattr(v, "val") else numbers.setdefault(v, len(numbers))
        return known, str(v.aval)

    def equation(eqn):
        inner = [listing(getattr(j, "jaxpr", j)) for j in nested(eqn.params.values())]
        rest = {k: re.sub("0x[0-9a-f]+", "", str(v)) for k, v in eqn.params.items()}
        rest = {k: v for k, v in rest.items() if not list(nested([eqn.params[k]]))}
        return eqn.primitive.name, [*map(operand, [*eqn.invars, *eqn.outvars])], inner, rest

    return [equation(eqn) for eqn in jaxpr.eqns]


def nested(values):
    for value in values:
        if isinstance(value, tuple | list):
            yield from nested(value)
        elif hasattr(getattr(value, "jaxpr", value), "eqns"):
            yield value


def assert_same_program(fun, *args):
    want = program(fun, *args)
    with strict():
        assert program(fun, *args) == want


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in METHODS
        for dtype in (DTYPES if name in HALF else ("float32", "mixed"))
    ],
)
def test_every_method_through_every_face(name, dtype):
    """A plain radius, one that is traced in float32, and a schedule."""
    method, params = METHODS[name], parameters(dtype)
    function = LOSSES[method.loss]
    inject = optax.inject_hyperparams(method.make, method.static, jnp.float32)
    tx, injected = method(), inject(rho=0.1, **method.options)
    scheduled = method(lambda count: 0.1 / (1 + count))

    def value_fn_of(x, y):
        return (lambda p: loss(p, x, y)) if method.loss == "plain" else function.at(x, y)

    def steps(params, x, y):
        zeros = jax.tree.map(jnp.zeros_like, params)
        chain = injected.update(zeros, injected.init(params), params, value_fn=value_fn_of(x, y))
        alone = lsam.value_and_grad(function, tx)(params, tx.init(params), x, y)
        if not method.grad_fn:
            return chain, alone
        by_gradient = scheduled.update(
            zeros, scheduled.init(params), params, grad_fn=lambda p: jax.grad(loss)(p, x, y)
        )
        return chain, alone, by_gradient

    assert_same_program(steps, params, *batch())


RADII = {
    "float": 0.1,
    "NumPy": np.float64(0.1),
    "NumPy single": np.float32(0.1),
    "array": jnp.float32(0.1),
    "schedule": optax.cosine_decay_schedule(0.1, 10),
    "by layer": lsam.per_layer({"z/w": 0.2}, default=np.float32(0.1)),
    "schedules by layer": lsam.per_layer(lambda name: optax.linear_schedule(0.0, 0.1, 10)),
}


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("normalize", [False, True, "layer"])
def test_every_kind_of_radius_and_weight(radius, normalize):
    rho, params = RADII[radius], parameters("mixed")
    alpha = optax.linear_schedule(0.5, 1.0, 4) if radius == "schedule" else np.float32(0.8)
    tx = lsam.layerwise_sam(1, rho, alpha, normalize=normalize, norm_decay=0.5, select_every=2)

    def step(params, x, y):
        return lsam.value_and_grad(loss, tx)(params, tx.init(params), x, y)

    assert_same_program(step, params, *batch())


def test_values_under_strict_rules_are_right():
    """Run, not only traced; the loss itself is still held to the rules."""
    params, (x, y) = parameters("mixed"), batch()
    tx = lsam.sam(jnp.float32(0.5))
    with strict():
        _, direction, _ = jax.jit(lsam.value_and_grad(loss, tx))(params, tx.init(params), x, y)
    value = jax.value_and_grad(lambda p, batch: (loss(p, *batch), ()), has_aux=True)
    every = {name: name for name in textbook.named(params)}
    want = textbook.step(value, params, (x, y), set(every), 0.5, 1.0, True, every)
    got = textbook.named(direction)
    for name in every:
        assert textbook.relative_error(np.float32(got[name]), want.direction[name]) < 2e-2

    def careless(p, x, y):
        return jnp.mean(x.astype(jnp.bfloat16) @ p["a"]["w"] + p["a"]["b"])

    for run in (
        lambda: lsam.value_and_grad(careless, tx)(params, tx.init(params), x, y),
        lambda: tx.update(
            params, tx.init(params), params, grad_fn=lambda p: jax.grad(careless)(p, x, y)
        ),
    ):
        with strict(), pytest.raises(Exception, match="promotion"):
            run()


W = jnp.ones(1)


def careful(w, x=W):
    return jnp.sum(w * x)


def careless(w, x=W):
    return jnp.sum(w * x.astype(jnp.bfloat16))


CALLS = {
    "suggest_rho": lambda loss: lsam.suggest_rho(loss_fn=loss, params=W, radii=[0.1]),
    "empirical_fisher": lambda loss: lsam.empirical_fisher(
        loss_fn=lsam.per_sample(lambda w, x: loss(w, x)[None]).at(W), params=W
    ),
    "ascent_fn": lambda loss: lsam.sam().update(
        W, lsam.sam().init(W), W, value_fn=careful, ascent_fn=loss
    ),
    "value_fn": lambda loss: lsam.sam().update(
        W, lsam.sam().init(W), W, value_fn=loss, ascent_fn=careful
    ),
    "ascent_batch": lambda loss: lsam.value_and_grad(
        lambda w, x: careful(w) + (loss(w) if len(x) == 1 else 0.0), lsam.sam(), ascent_batch=1
    )(W, lsam.sam().init(W), jnp.ones(2)),
}


@pytest.mark.core
@pytest.mark.parametrize("name", CALLS)
def test_the_users_rules_are_for_every_loss_of_the_users(name):
    """Also for one that is passed by name, and for the one that is climbed."""
    with strict():
        CALLS[name](careful)
        with pytest.raises(Exception, match="promotion"):
            CALLS[name](careless)


def test_tools_around_a_method():
    """m-sharpness, masks, Fisher information, rounding, freezing, inspection."""
    params, (x, y) = parameters("mixed"), batch()
    sl_sam, sparse = lsam.sl_sam(0.1, 0.5), lsam.sparse_sam(0.1)
    frozen = optax.chain(sl_sam, lsam.freeze_inactive(optax.trace(0.9)))

    def tools(params, x, y):
        zeros = jax.tree.map(jnp.zeros_like, params)
        parts = lsam.value_and_grad(loss, sparse, m=2, batch_argnums=(1, 2))
        fisher = lsam.empirical_fisher(LOSSES["per_sample"], params, x, y)
        state = lsam.refresh_mask(sparse, sparse.init(params), fisher)
        survival = lsam.perturbation_survival(sparse, params, params, state)
        update = frozen.update(zeros, frozen.init(params), params, value_fn=lambda p: loss(p, x, y))
        return parts(params, state, x, y), survival, update

    assert_same_program(tools, params, *batch())
    with strict():
        assert lsam.inspect(loss, params, x, y).layers


def test_diagnostics():
    params, data = parameters("mixed"), batch()
    at, key = (loss, params, *data), jax.random.key(0)
    run = [
        lambda: diagnostics.sam_ball(*at, rho=0.1),
        lambda: diagnostics.hessian_trace(*at, probes=2, key=key),
        lambda: diagnostics.hessian_eigenvalues(*at, key=key),
        lambda: diagnostics.layer_landscape(*at, layer="z/w", key=key, steps=[0.0, 1.0]),
        lambda: diagnostics.gradient_norms(*at),
        lambda: diagnostics.distance_between(params, params),
    ]
    for function in run:
        want = function()
        with strict():
            got = function()
        assert all(map(np.array_equal, jax.tree.leaves(got), jax.tree.leaves(want)))


@dataclasses.dataclass
class Loss:
    """A loss with a way of its own to be made, as equinox.Module may have."""

    data: tuple
    function: Any

    def __init__(self, data):
        self.data, self.function = data, loss

    def __call__(self, params):
        return self.function(params, *self.data)


class Careless(Loss):
    def __call__(self, params):
        return jnp.mean(self.data[0].astype(jnp.bfloat16) @ params["a"]["w"])


def test_a_loss_that_is_a_dataclass():
    params, tx, data = parameters("mixed"), lsam.sam(0.1), batch()
    for make in (Loss, lambda data: jax.tree_util.Partial(Loss(data))):
        loss_fn = make(data)

        def step(params, loss_fn=loss_fn):
            state = tx.init(params)
            by_value = tx.update(params, state, params, value_fn=loss_fn)
            return by_value, lsam.value_and_grad(loss_fn, tx)(params, state)

        assert_same_program(step, params)
    with strict(), pytest.raises(Exception, match="promotion"):  # by the user's rules
        tx.update(params, tx.init(params), params, value_fn=Careless(data))
