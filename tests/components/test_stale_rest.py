"""A stale ascent rests where its gradient points along what the weights were moved by."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam

W = jnp.asarray([3.0, 4.0])


def bowl(w):
    return jnp.sum(w**2) / 2


def run(tx, steps):
    """Whether each step moved anything, and its direction."""
    step, state, seen = jax.jit(lsam.value_and_grad(bowl, tx)), tx.init(W), []
    for _ in range(steps):
        _, direction, state = step(W, state)
        seen.append((bool(state.selected.any()), direction.tolist()))
    return seen


def stale(rho, make=lsam.sam, when=None, **options):
    return lsam.with_parts(make(rho), ascent=lsam.stale(**options), when=when)


def test_a_step_that_rests_perturbs_nothing_and_says_so():
    tx = stale(2.5)
    step, state = jax.jit(lsam.value_and_grad(bowl, tx)), tx.init(W)
    for count, (w, g) in enumerate([(W, W), (W, 1.5 * W), (2 * W, 2 * W), (W, 1.5 * W)]):
        loss, direction, state = step(w, state)
        assert direction.tolist() == g.tolist() and float(loss) == bowl(g)
        # Of the last step that perturbed.
        assert (float(state.rho), float(state.rise)) == (2.5, 18.75 if count else 0.0)
        assert float(state.sharpness) == (18.75 if count else 0.0)
        assert state.selected.tolist() == [count != 2]
        assert state.perturbations.tolist() == [(1, 2, 2, 3)[count]]


def test_one_is_never():
    assert run(stale(2.5, rest=1), 5)[1:] == [(True, [4.5, 6.0])] * 4


def test_it_rests_above_the_cosine_alone():
    """The gradient turns by 60 degrees from step to step, whatever was moved."""
    turned = np.stack([[np.cos(x), np.sin(x)] for x in np.arange(8) * np.pi / 3])

    def rests(rest):
        tx = stale(0.1, rest=rest)
        step, state = jax.jit(lsam.value_and_grad(lambda w, g: w @ g, tx)), tx.init(W)
        for g in turned.astype(np.float32):
            _, _, state = step(W, state, g)
            yield not state.selected.any()

    assert not any(rests(0.51))
    assert list(rests(0.49)) == [False, False, True, False, True, False, True, False]


@pytest.mark.parametrize("radius", [0.0, lambda count: jnp.where(count < 3, 0.0, 2.5)])
def test_a_step_that_moved_nothing_is_no_reason_to_rest(radius):
    clean, moved = (True, [3.0, 4.0]), (True, [4.5, 6.0])
    now_and_then = [clean, clean, clean, moved, (False, [3.0, 4.0]), moved]
    assert run(stale(radius), 6) == ([clean] * 6 if radius == 0.0 else now_and_then)


def test_a_step_that_is_not_due_is_no_reason_to_rest():
    """Steps 2 and 4 perturb, each along the clean gradient of the one before."""
    seen = run(stale(2.5, when=lsam.every(2)), 6)
    assert seen[2::2] == [(True, [4.5, 6.0])] * 2


def test_the_method_is_told_the_gradient_as_ever():
    """F-SAM, which climbs by what is new in a gradient, moves nothing where it rests."""
    _, _, rested = run(stale(2.5, make=lambda rho: lsam.f_sam(rho, sigma=0.5)), 3)
    assert rested == (False, [3.0, 4.0])


def test_the_radius_that_sets_itself_waits():
    tx = stale(lsam.rise(6.0))
    step, state, w = jax.jit(lsam.value_and_grad(bowl, tx)), tx.init(W), W
    before = None
    for count in range(12):
        _, _, state = step(w, state)
        if count % 2 == 0 and count:
            chex.assert_trees_all_equal(state.memory.radius.rho, before.memory.radius.rho)
            assert int(state.memory.radius.moves) == int(before.memory.radius.moves)
        before = state
    assert int(state.memory.radius.moves) == 6


RIGHT_ANGLES = np.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]] * 2, np.float32)
A_ALONE = {
    "known": lambda: lsam.layerwise_sam(None, 0.1, selection=["a"], normalize=True),
    "chosen": lambda: lsam.layerwise_sam(
        None,
        0.1,
        selection=lsam.Selector(
            lambda network: np.ones(2, bool), draw=lambda *_: jnp.asarray([True, False])
        ),
        normalize=True,
    ),
    "radius 0": lambda: lsam.sam(lsam.per_layer({"a": 0.1}, default=0.0)),
}


@pytest.mark.parametrize("turns", ["a", "b"])
@pytest.mark.parametrize("name", [*A_ALONE, "all"])
def test_what_did_not_move_says_nothing(name, turns):
    """One layer keeps its gradient, the other's turns; that of b is three times as long."""
    make = A_ALONE.get(name, lambda: lsam.layerwise_sam(None, 0.1, selection="all", normalize=True))
    tx = lsam.with_parts(make(), ascent=lsam.stale())
    params = {n: jnp.ones((1, 2)) for n in "ab"}
    loss = lambda p, g: sum(jnp.sum(p[n] * g[n]) for n in "ab")  # noqa: E731
    step, state, rests = jax.jit(lsam.value_and_grad(loss, tx)), tx.init(params), []
    for turned in RIGHT_ANGLES:
        same = np.asarray([1.0, 0.0], np.float32)
        a, b = (turned if n == turns else same for n in "ab")
        _, _, state = step(params, state, {"a": a[None], "b": 3 * b[None]})
        rests.append(not state.selected.any())
    decides = "b" if name == "all" else "a"
    assert rests == [decides != turns and count in (2, 4, 6) for count in range(8)]


def test_seeds_under_vmap_rest_apart():
    """One gradient keeps its direction, the other turns by a right angle in each step."""
    tx = stale(0.1)
    step = jax.vmap(lsam.value_and_grad(lambda w, g: w @ g, tx), in_axes=(None, 0, 0))
    state = jax.vmap(lambda _: tx.init(W))(jnp.arange(2))
    rests = []
    for g in ([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]):
        _, _, state = step(W, state, jnp.asarray([[1.0, 0.0], g]))
        rests.append((~state.selected[:, 0]).tolist())
    assert rests == [[False, False], [False, False], [True, False], [False, False]]


def test_a_valley_in_which_it_would_swing():
    """Steep in one direction: without rest the weights stay at the distance of the radius."""
    rates = jnp.asarray([10.0, 0.1])

    def distance(rest):
        tx, w, far = stale(0.5, rest=rest), jnp.asarray([0.2, 1.0]), []
        step, state = (
            jax.jit(lsam.value_and_grad(lambda w: jnp.sum(rates * w**2) / 2, tx)),
            tx.init(w),
        )
        for _ in range(200):
            _, direction, state = step(w, state)
            w = w - 0.02 * direction
            far.append(abs(float(w[0])))
        return np.mean(far[100:])

    assert distance(0.5) < distance(1.0) / 2


def test_what_measures_a_radius_measures_it_at_rest_too():
    w = jnp.ones(10000, jnp.bfloat16)
    for rests in (False, True):
        tx = stale(0.01)
        state = tx.init(w)
        ascent = state.memory.ascent._replace(rests=jnp.asarray(rests))
        state = state._replace(memory=state.memory._replace(ascent=ascent))
        assert lsam.perturbation_survival(tx, w, w, state) == 0  # all of it rounds away
    tx = stale(2.5)
    step, state = lsam.value_and_grad(bowl, tx), tx.init(W)
    for _ in range(2):
        _, _, state = step(W, state)
    assert state.memory.ascent.rests
    found = lsam.suggest_rho(bowl, W, tx=tx, sam_state=state, radii=[1.0, 2.0], target=8.0)
    assert found.rises.tolist() == pytest.approx([6.0, 14.0])
