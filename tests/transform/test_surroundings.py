"""What would change the numbers in silence, around or in front of a method, is refused or told."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

import lsam_jax as lsam

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("x64")]
RHO, LR, SMALL = 0.3, 0.5, 4

MICRO = [jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(SMALL, 5, 3))]
WHOLE = jnp.concatenate(MICRO)


def parameters():
    rng = np.random.default_rng(1)
    return {"a": jnp.asarray(rng.normal(size=(3, 3))), "b": jnp.asarray(rng.normal(size=(3, 2)))}


def loss(params, x):
    return jnp.mean(jnp.sum((jnp.tanh(x @ params["a"]) @ params["b"]) ** 2, 1))


def by_hand(params, x):
    """SAM's direction on one batch, by two gradients."""
    g = jax.grad(loss)(params, x)
    size = np.sqrt(sum(np.sum(np.square(d)) for d in g.values()))
    return jax.grad(loss)({n: params[n] + RHO * g[n] / size for n in params}, x)


def mean_of_directions(params):
    every = [by_hand(params, x) for x in MICRO]
    return {n: sum(d[n] for d in every) / SMALL for n in params}


def assert_close(got, want):
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-10, atol=1e-13)


def extra(face, x):
    value_fn = functools.partial(loss, x=x)
    return {"value_fn": value_fn} if face == "value_fn" else {"grad_fn": jax.grad(value_fn)}


def update(tx, face, state, params, x, compiled=False):
    def step(grads, state, params, x):
        return tx.update(grads, state, params, **extra(face, x))

    return (jax.jit(step) if compiled else step)(jax.grad(loss)(params, x), state, params, x)


def over_small_batches(tx, face, params, compiled=True):
    """The updates of four small steps at the same weights."""
    state, found = tx.init(params), []
    for x in MICRO:
        updates, state = update(tx, face, state, params, x, compiled)
        found.append(updates)
    return found


def passing(multi_steps):
    """As a transformation that keeps extra arguments, which `gradient_transformation()` drops."""
    return optax.GradientTransformationExtraArgs(multi_steps.init, multi_steps.update)


AROUND = {
    "itself": lambda: optax.MultiSteps(lsam.sam(RHO), SMALL),
    "a chain": lambda: optax.MultiSteps(optax.chain(lsam.sam(RHO), optax.sgd(LR)), SMALL),
    "deep": lambda: optax.chain(
        passing(
            optax.MultiSteps(
                optax.apply_if_finite(optax.named_chain(("s", lsam.sam(RHO))), 3), SMALL
            )
        ),
        optax.sgd(LR),
    ),
    "by a schedule": lambda: optax.MultiSteps(
        lsam.sam(RHO), lambda step: jnp.where(step < 9, 1, 4)
    ),
    "skipping": lambda: optax.MultiSteps(
        lsam.sam(RHO), SMALL, should_skip_update_fn=optax.skip_not_finite
    ),
}


@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
@pytest.mark.parametrize(
    ("name", "compiled"),
    # Not compiled, the number of a schedule is known, and the one small step here is right.
    [(n, c) for n in AROUND for c in (False, True) if c or n != "by a schedule"],
)
def test_multi_steps_around_a_method_is_refused_with_what_is_right(name, face, compiled):
    tx, params = AROUND[name](), parameters()
    words = ("optax.MultiSteps", "keeps the last", "gradient_transformation()", "microbatch")
    with refused(ValueError, *words):
        update(tx, face, tx.init(params), params, MICRO[0], compiled)


@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
def test_in_flax_and_in_a_scan_it_is_refused_too(face):
    linen = pytest.importorskip("lsam_jax.integrations.linen")
    params = parameters()
    tx = passing(AROUND["a chain"]())
    state = linen.TrainState.create(apply_fn=None, params=params, tx=tx)
    with refused(ValueError, "optax.MultiSteps"):
        state.apply_gradients(grads=params, **extra(face, MICRO[0]))

    def body(state, x):
        return update(tx, face, state, params, x)[1], None

    with refused(ValueError, "optax.MultiSteps"):
        jax.lax.scan(body, tx.init(params), jnp.stack(MICRO))


@pytest.mark.slow
@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
@pytest.mark.parametrize("compiled", [False, True])
def test_multi_steps_of_one_step_is_right(face, compiled):
    """Which is also Optax's way to skip what is not finite."""
    tx = optax.MultiSteps(
        optax.chain(lsam.sam(RHO), optax.sgd(LR)), 1, should_skip_update_fn=optax.skip_not_finite
    )
    params = parameters()
    for x, updates in zip(MICRO, over_small_batches(tx, face, params, compiled)):
        assert_close(updates, {n: -LR * d for n, d in by_hand(params, x).items()})


def test_multi_steps_of_a_loss_that_trains_by_a_method_is_let_be():
    """It accumulates the outer gradients, of a loss in which there are whole steps of SAM."""
    inner = optax.chain(lsam.sam(RHO), optax.sgd(LR))

    def after_a_step(scale):
        params = {n: scale * w for n, w in parameters().items()}
        updates, _ = update(inner, "value_fn", inner.init(params), params, MICRO[0])
        return loss(optax.apply_updates(params, updates), MICRO[1])

    by_value = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda updates, state, params, value_fn: (jax.grad(value_fn)(params), state),
    )
    outer = optax.MultiSteps(by_value, 2)
    scale = jnp.asarray(1.0)
    state = outer.init(scale)
    updates, _ = outer.update(scale, state, scale, value_fn=after_a_step)
    assert updates == 0


@pytest.mark.slow
@pytest.mark.parametrize("face", ["value_fn", "grad_fn"])
def test_multi_steps_behind_descends_the_mean_of_the_directions(face):
    behind = optax.MultiSteps(optax.sgd(LR), SMALL, accumulator_dtype=jnp.float64)
    tx, params = optax.chain(lsam.sam(RHO), behind.gradient_transformation()), parameters()
    *before, last = over_small_batches(tx, face, params)
    for updates in before:
        assert not any(np.any(d) for d in updates.values())
    assert_close(last, {n: -LR * d for n, d in mean_of_directions(params).items()})


MEAN = optax.microbatching.AccumulationType.MEAN


def in_small_batches(fun):
    return optax.microbatching.microbatch(fun, 1, len(MICRO[0]), MEAN)


def test_a_microbatched_gradient_is_that_of_the_mean_loss():
    """`grad_fn`, of which each call takes the memory of one small batch."""
    gradient, params = in_small_batches(jax.grad(loss)), parameters()
    tx = lsam.sam(RHO)

    @jax.jit
    def direction(params, x):
        grads = gradient(params, x)
        return tx.update(grads, tx.init(params), params, grad_fn=lambda p: gradient(p, x))[0]

    assert_close(direction(params, WHOLE), by_hand(params, WHOLE))


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("face", ["value_fn", "value_and_grad"])
def test_a_microbatched_loss_is_the_mean_loss(face, remat):
    small = in_small_batches(jax.checkpoint(loss) if remat else loss)
    params, tx = parameters(), lsam.sam(RHO)

    @jax.jit
    def direction(params, x):
        state = tx.init(params)
        if face == "value_fn":
            return tx.update(params, state, params, value_fn=lambda p: small(p, x))[0]
        return lsam.value_and_grad(small, tx)(params, state, x)[1]

    assert_close(direction(params, WHOLE), by_hand(params, WHOLE))


def nothing_moves(params):
    return jax.tree.map(lambda _: True, params)


IN_FRONT = {
    "clipping": lambda: optax.clip_by_global_norm(0.01),
    "weight decay": lambda: optax.add_decayed_weights(0.1),
    "freezing": lambda: optax.masked(optax.set_to_zero(), nothing_moves),
    "noise": lambda: optax.add_noise(0.1, 0.55, key=0),
    "momentum": lambda: optax.trace(0.9),
    "privacy": lambda: optax.contrib.differentially_private_aggregate(1.0, 1.0, key=0),
}

CHAINS = {
    "chain": optax.chain,
    "named_chain": lambda *members: optax.named_chain(*((str(id(t)), t) for t in members)),
    "nested": lambda front, *rest: optax.chain(front, optax.chain(*rest)),
    "wrapped": lambda front, *rest: optax.chain(
        front, optax.inject_hyperparams(lambda rate: optax.chain(rest[0], optax.sgd(rate)))(LR)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("front", "chain"),
    [*((front, "chain") for front in IN_FRONT), *(("clipping", chain) for chain in CHAINS)],
)
def test_what_stands_in_front_and_does_nothing_is_told(front, chain, compiled):
    tx = CHAINS[chain](IN_FRONT[front](), lsam.sam(RHO), optax.sgd(LR))
    params = parameters()
    if front == "privacy":  # it takes a gradient for each sample
        grads = jax.vmap(jax.grad(loss), (None, 0))(params, MICRO[0][:, None])
    else:
        grads = jax.grad(loss)(params, MICRO[0])

    def step(grads, state, params, x):
        return tx.update(grads, state, params, **extra("value_fn", x))

    with pytest.warns(UserWarning, match="in front of this transformation.* Put it behind"):
        (jax.jit(step) if compiled else step)(grads, tx.init(params), params, MICRO[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_in_its_place_nothing_is_told(compiled):
    sam, clip, sgd = lsam.sam(RHO), optax.clip_by_global_norm(0.01), optax.sgd(LR)
    direction = by_hand(parameters(), MICRO[0])
    size = np.sqrt(sum(np.sum(np.square(d)) for d in direction.values()))
    clipped = {n: -LR * 0.01 * d / size for n, d in direction.items()}
    for make in (
        lambda: optax.chain(sam, clip, sgd),
        lambda: optax.named_chain(("a", sam), ("b", clip), ("c", sgd)),
        lambda: optax.chain(optax.chain(sam, clip), sgd),
        lambda: optax.apply_if_finite(optax.chain(sam, clip, sgd), 3),
        lambda: optax.inject_hyperparams(lambda rate: optax.chain(sam, clip, optax.sgd(rate)))(LR),
    ):
        tx, params = make(), parameters()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            updates, _ = update(tx, "value_fn", tx.init(params), params, MICRO[0], compiled)
        for name, want in clipped.items():
            np.testing.assert_allclose(updates[name], want, rtol=1e-6)


def test_by_gradients_what_stands_in_front_changes_the_ascent():
    """So nothing is told: SAM uphill by the gradient that comes in, here of one array alone."""
    frozen = optax.masked(optax.set_to_zero(), {"a": True, "b": False})
    tx, params = optax.chain(frozen, lsam.sam(RHO)), parameters()
    direction, _ = update(tx, "grad_fn", tx.init(params), params, WHOLE)
    g = jax.grad(loss)(params, WHOLE)["b"]
    there = {**params, "b": params["b"] + RHO * g / jnp.linalg.norm(g)}
    assert_close(direction, jax.grad(loss)(there, WHOLE))
