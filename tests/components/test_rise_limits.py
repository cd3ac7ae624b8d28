"""A radius that follows the rise of the loss: its limits, and what is refused."""

import functools
import math

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import METHODS as EVERY
from refusals import NAN, refused
from samples import loss, network
from test_rise import GRADIENT, LR, METHODS, WEIGHTS, H, quadratic
from training import assert_same

import lsam_jax as lsam
from lsam_jax import components

pytestmark = pytest.mark.usefixtures("x64")


def steps(tx, loss_fn, params, count=60, rate=0.0):
    step, state = jax.jit(lsam.value_and_grad(loss_fn, tx)), tx.init(params)
    for _ in range(count):
        _, direction, state = step(params, state)
        params = jax.tree.map(lambda w, d: w - rate * d, params, direction)
        yield params, state


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["sam", "layerwise_sam", "asam"])
def test_speed_0_is_the_fixed_radius_to_the_bit(name, dtype):
    make = METHODS.get(name, (lsam.asam,))[0]
    params, (batch, *_) = network()
    params, batch = (
        jax.tree.map(lambda x: x.astype(dtype) if x.dtype.kind == "f" else x, tree)
        for tree in (params, batch)
    )
    of = lambda p: loss(p, batch)[0]  # noqa: E731
    following, fixed = (
        list(steps(make(rho), of, params, 5, LR)) for rho in (lsam.rise(0.3, speed=0), 0.1)
    )
    for (got, _), (want, _) in zip(following, fixed):
        assert_same(got, want, 0)


def test_a_share_starts_with_a_plain_step():
    params, (batch, *_) = network()
    tx = lsam.sam(lsam.rise(share=0.4))
    step = jax.jit(lsam.value_and_grad(loss, tx, True))
    value, direction, state = step(params, tx.init(params), batch)
    assert_same(direction, GRADIENT(params, batch)[1])
    assert float(state.memory.radius.first_loss) == pytest.approx(float(value[0]), rel=1e-12)
    assert float(state.rho) == float(state.rise) == 0 and float(state.memory.radius.rho) == 0.1


@pytest.mark.parametrize(
    ("radius", "end", "at_bound"),
    [
        (lsam.rise(1e3, bounds=(0.01, 0.5)), 0.5, True),
        (lsam.rise(1e-6, bounds=(0.02, 0.5)), 0.02, True),
        (lsam.rise(share=0.9, cap=1.0, bounds=(0.02, 0.5)), 0.02, True),  # it never falls
        (lsam.rise(1.0), None, False),
    ],
)
def test_bounds(radius, end, at_bound):
    *_, (_, state) = steps(lsam.sam(radius), quadratic, WEIGHTS, 80)
    memory = state.memory.radius
    assert (float(memory.rho) == end) is at_bound
    assert (int(memory.at_bound) > 20) is at_bound


def test_falls_where_a_larger_radius_no_longer_raises_the_loss():
    """r = 2 x^2 exp(-x^2) at x = 0.1 + rho: 0.74 at most, at 1; the target cannot be reached."""
    bump = lambda w: -jnp.exp(-(w**2))  # noqa: E731
    *_, (_, state) = steps(lsam.sam(lsam.rise(1.0)), bump, jnp.asarray(0.1), 300)
    assert 0.3 < float(state.memory.radius.rho) < 3


@pytest.mark.parametrize("reach", [0.5, 2.0, math.inf])
def test_does_not_follow_what_flattens_on_and_on(reach):
    """r = rho exp(-count / 50): to keep it, the radius would grow as fast."""
    radius = lsam.rise(0.1, reach=reach)
    slope = lambda w, count: w * jnp.exp(-count / 50)  # noqa: E731
    tx = lsam.sam(radius)
    step, state = jax.jit(lsam.value_and_grad(slope, tx)), tx.init(jnp.asarray(1.0))
    rho, r = [], []
    for count in range(250):
        _, _, state = step(jnp.asarray(1.0), state, float(count))
        rho.append(float(state.rho))
        r.append(float(state.rise))
    needed, largest = 0.1 * sum(rho[:100]) / sum(r[:100]), max(rho[100:])
    if reach == math.inf:
        assert largest > 3 * needed
    else:
        assert largest == pytest.approx(reach * needed, rel=1e-6)


def test_a_target_that_falls_is_followed_where_r_goes_with_the_square():
    """r = rho^2: a hundredth of the rise needs a tenth of the radius."""
    bowl = lambda w: jnp.sum(w**2) / 2  # noqa: E731
    radius = lsam.rise(lambda count: jnp.where(count < 150, 1.0, 0.01))
    *_, (_, state) = steps(lsam.sam(radius), bowl, jnp.asarray([1e-6]), 300)
    assert float(state.rise) == pytest.approx(0.01, rel=0.02)


def test_a_negative_rise_and_a_loss_below_zero():
    """Moved downhill: r = 2 rho (rho - 1) at 1; the radius grows until the loss rises."""
    downhill = components.Perturbation(
        lambda g, w, at, now, memory: [x - now.rho * jnp.sign(d) for x, d in zip(w, g)]
    )
    tx = components.method(rho=lsam.rise(0.5), perturbation=downhill)
    *_, (_, state) = steps(tx, lambda w: w**2 - 100.0, jnp.asarray(1.0), 200)
    assert float(state.rise) == pytest.approx(0.5, rel=0.1)
    of = [(share, offset) for share in (0.4, 0.7) for offset in (-100.0, -1.0, 100.0)]
    ends = {}
    for share, offset in of:  # what is learnt says the radius, whatever is added to the loss
        tx = lsam.sam(lsam.rise(share=share, cap=1.0))
        *_, (_, state) = steps(tx, lambda w: w**2 + offset, jnp.asarray(1.0), 80, 0.1)  # noqa: B023
        ends[share, offset] = float(state.memory.radius.rho)
        assert ends[share, offset] == pytest.approx(ends[share, -100.0], rel=1e-6)
    assert 0.1 < ends[0.4, -1.0] < ends[0.7, -1.0]


def test_steps_that_are_not_finite_halve_the_radius():
    tx = lsam.sam(lsam.rise(1.0))
    scaled = lambda w, scale: quadratic(w) * scale  # noqa: E731
    step, state = jax.jit(lsam.value_and_grad(scaled, tx)), tx.init(WEIGHTS)
    for scale in (1.0, 1.0, NAN, NAN):
        before, state = state, step(WEIGHTS, state, scale)[2]
    old, new = before.memory.radius, state.memory.radius
    assert float(new.rho) == float(old.rho) / 2
    assert_same(new._replace(rho=0), old._replace(rho=0), 0)
    state = step(WEIGHTS, state, 1.0)[2]
    assert np.isfinite(float(state.memory.radius.rho))


def test_a_change_of_data_does_not_derail_it():
    tx = lsam.sam(lsam.rise(share=0.4))
    of = lambda w, more: quadratic(w) + more  # noqa: E731
    step, state, params = jax.jit(lsam.value_and_grad(of, tx)), tx.init(WEIGHTS), WEIGHTS
    radii = []
    for count in range(400):
        _, direction, state = step(params, state, 50.0 * (100 <= count < 200))
        params = jax.tree.map(lambda w, d: w - 0.02 * d, params, direction)
        radii.append(float(state.memory.radius.rho))
    assert radii[199] == 1e-3
    assert 0.1 < radii[399] < 2


def test_loss_scaling_does_not_change_a_share():
    params, (batch, *_) = network()
    radii = []
    for scale in (1.0, 2.0**15):
        of = lambda p, s=scale: s * loss(p, batch)[0]  # noqa: E731
        tx = lsam.sam(lsam.rise(share=0.4))
        *_, (_, state) = steps(tx, of, params, 30, LR / scale)
        radii.append(float(state.memory.radius.rho))
    assert radii[0] == pytest.approx(radii[1], rel=1e-10) != 0.1


def test_seeds_side_by_side_have_a_radius_each():
    tx = lsam.sam(lsam.rise(1.0))
    step = lsam.value_and_grad(quadratic, tx)
    on_one, on_both = jax.jit(step), jax.jit(jax.vmap(step))
    both = jax.tree.map(lambda w: jnp.stack([w, 3 * w]), WEIGHTS)
    together, apart = jax.vmap(tx.init)(both), [tx.init(WEIGHTS)] * 2
    for _ in range(10):
        _, _, together = on_both(both, together)
        for n in range(2):
            apart[n] = on_one(jax.tree.map(lambda w, n=n: w[n], both), apart[n])[2]
    assert_same(together.memory.radius.rho, jnp.stack([s.memory.radius.rho for s in apart]))
    assert len(set(together.memory.radius.rho.tolist())) == 2


def test_ratios_between_layers_and_targets_that_move():
    ratios = lsam.per_layer({"a": 1.0, "b": 0.5})
    tx = lsam.sam(lsam.rise(1.0, ratios=ratios), layers="array")
    *_, (_, state) = steps(tx, quadratic, WEIGHTS, 100)
    rho = float(state.memory.radius.rho)
    w = np.concatenate(list(WEIGHTS.values()))
    eps = rho * np.array([1, 1, 0.5, 0.5]) * (H @ w) / np.linalg.norm(H @ w)
    assert eps @ H @ (w + eps) == pytest.approx(1.0, rel=0.05)
    with refused(ValueError, "rho", "nowhere"):
        lsam.sam(lsam.rise(1.0, ratios=lsam.per_layer({"nowhere": 1.0}))).init(WEIGHTS)
    for target, want in [
        (optax.constant_schedule(2.0), 2.0),
        (lambda first, mean, step: 0.2 * first + 0 * mean, 0.2 * float(quadratic(WEIGHTS))),
    ]:
        *_, (_, state) = steps(lsam.sam(lsam.rise(target)), quadratic, WEIGHTS, 100)
        assert float(state.rise) == pytest.approx(want, rel=0.05)


def test_only_steps_that_perturb_move_it():
    tx = lsam.with_parts(lsam.sam(lsam.rise(share=0.4)), when=lsam.every(3))
    seen = [
        (float(s.memory.radius.rho), int(s.memory.radius.moves), float(s.rise))
        for _, s in steps(tx, quadratic, WEIGHTS, 9, 0.02)
    ]
    assert [moves for _, moves, _ in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert seen[3][0] == seen[4][0] == seen[5][0] != seen[6][0]
    assert seen[3][2] == seen[5][2] != seen[6][2]


@pytest.mark.core
@pytest.mark.parametrize("name", EVERY)
def test_in_every_method(name):
    """At weights that stand still, the steps that perturb come to raise the loss by the target."""
    method, params = EVERY[name], contract.parameters()
    tx = method(rho=lsam.rise(0.5))
    step = jax.jit(lsam.value_and_grad(contract.LOSSES[method.loss], tx))
    state, rises = tx.init(params), []
    for _ in range(120):
        state = step(params, state, *contract.batch())[2]
        rises.append(float(state.rise))
    if name == "momentum_sam":  # downhill at first; then it turns, at weights that stand still
        assert max(rises[:5]) <= 0 and max(rises) > 0.5
    else:
        assert np.mean(rises[60:]) == pytest.approx(0.5, rel=0.1)
    assert float(state.rho) != pytest.approx(0.1, rel=1e-3)


REFUSED = [
    ((), {}, ValueError, ["target", "share"]),
    ((0.3,), {"share": 0.4}, ValueError, ["target=0.3", "share=0.4"]),
    ((0.0,), {}, ValueError, ["target", "above 0"]),
    ((-1.0,), {}, ValueError, ["target", "above 0"]),
    (("0.3",), {}, TypeError, ["target"]),
    ((0.3,), {"cap": 0.2}, ValueError, ["cap=0.2", "share"]),
    ((), {"share": 0.0}, ValueError, ["share", "above 0"]),
    ((), {"share": 1.0}, ValueError, ["share", "below 1"]),
    ((), {"share": 0.4, "cap": 0.0}, ValueError, ["cap", "above 0"]),
    ((), {"share": 0.4, "cap": 1.5}, ValueError, ["cap", "at most 1"]),
    ((0.3,), {"bounds": (1.0, 0.1)}, ValueError, ["bounds", "order"]),
    ((0.3,), {"bounds": (0.0, 0.1)}, ValueError, ["bounds", "above 0"]),
    ((0.3,), {"bounds": 0.1}, TypeError, ["bounds"]),
    ((0.3,), {"first": 11.0}, ValueError, ["first", "at most 10"]),
    ((0.3,), {"first": 1e-4}, ValueError, ["first", "at least 0.001"]),
    ((0.3,), {"speed": -0.1}, ValueError, ["speed", "at least 0"]),
    ((0.3,), {"averages": (1.0, 0.8)}, ValueError, ["averages", "below 1"]),
    ((0.3,), {"averages": 0.9}, TypeError, ["averages"]),
    ((0.3,), {"reach": 0.0}, ValueError, ["reach", "above 0"]),
    ((0.3,), {"reach": float("nan")}, ValueError, ["reach"]),
    ((0.3,), {"ratios": {"a": 1.0}}, TypeError, ["ratios", "per_layer"]),
]


@pytest.mark.parametrize(("args", "options", "error", "words"), REFUSED)
def test_what_is_refused(args, options, error, words):
    with refused(error, *words):
        lsam.rise(*args, **options)


def test_a_share_needs_the_loss():
    for radius in (lsam.rise(share=0.4), lsam.rise(lambda first, mean, step: 0.1)):
        tx = lsam.sam(radius)
        with refused(ValueError, "grad_fn", "value_fn", "rise(0.3)"):
            tx.update(WEIGHTS, tx.init(WEIGHTS), WEIGHTS, grad_fn=jax.grad(quadratic))
    tx = lsam.sam(lsam.rise(1.0))
    by_gradient, by_loss = tx.init(WEIGHTS), tx.init(WEIGHTS)
    step_by_gradient = jax.jit(functools.partial(tx.update, grad_fn=jax.grad(quadratic)))
    step_by_loss = jax.jit(functools.partial(tx.update, value_fn=quadratic))
    g = jax.grad(quadratic)(WEIGHTS)
    for _ in range(5):
        _, by_gradient = step_by_gradient(g, by_gradient, WEIGHTS)
        _, by_loss = step_by_loss(g, by_loss, WEIGHTS)
    assert float(by_gradient.rho) == float(by_loss.rho) > 0.1


@pytest.mark.parametrize("how", ["replica", "m"])
def test_parts_that_perturb_apart_share_the_mean_of_their_rises(how):
    params, (batch, *_) = network()
    value = lambda p, b: loss(p, b)[0]  # noqa: E731
    rises = []
    for n in range(4):
        part = jax.tree.map(lambda x, n=n: x[4 * n : 4 * n + 4], batch)
        _, g = GRADIENT(params, part)
        size = np.sqrt(sum(float(jnp.sum(x**2)) for x in g.values()))
        eps = {name: 0.1 * x / size for name, x in g.items()}
        _, h = GRADIENT({name: w + eps[name] for name, w in params.items()}, part)
        rises.append(sum(float(jnp.sum(h[name] * eps[name])) for name in h))
    more = {"axis_name": "d", "perturbation_sync": "replica"} if how == "replica" else {}
    tx = lsam.sam(lsam.rise(0.05), **more)
    step = lsam.value_and_grad(value, tx, **({"m": 4} if how == "m" else {}))
    if how == "replica":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("d",))
        P = jax.sharding.PartitionSpec
        step = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P("d")), out_specs=P())
    state = jax.jit(step)(params, tx.init(params), batch)[2]
    assert float(state.rise) == pytest.approx(np.mean(rises), rel=1e-5)
    assert float(state.memory.radius.rise) == pytest.approx(np.mean(rises), rel=1e-10)
