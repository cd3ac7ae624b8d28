"""SL-SAM's bandit: probabilities by the published rule, draws by the probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsam_jax as lsam

L = 12
EVERY = np.ones(L, bool)


def project(w, total):
    """Water-filling, one entry at a time: what would exceed 1 is set to 1, the rest share."""
    p, full = np.array(w, float), np.zeros(len(w), bool)
    while True:
        p[~full] *= (total - full.sum()) / p[~full].sum()
        over = ~full & (p > 1)
        if not over.any():
            return p
        largest = np.flatnonzero(over)[np.argmax(p[over])]
        full[largest], p[largest] = True, 1.0


def learn(p, selected, a, rate, total, scale_free=False):
    """METHODS: l_i = max_j (a_j / p_j)^2 - (a_i / p_i)^2 over the active, then the projection."""
    if scale_free:
        a = a / np.sqrt(np.mean(a[selected] ** 2))
    r = (a[selected] / p[selected]) ** 2
    w = np.array(p, float)
    w[selected] *= np.exp(-rate * (r.max() - r) / p[selected])
    return project(w, total)


@pytest.mark.core
@pytest.mark.parametrize("scale_free", [False, True])
def test_probabilities_follow_the_rule(scale_free):
    selector = lsam.bandit(0.3, 1e-3, scale_free=scale_free, seed=3)
    rng = np.random.default_rng(0)
    memory = type(selector.init(_Layers, []))(jnp.full(L, 0.3, jnp.float32))
    want = np.full(L, 0.3)
    draw, observe = (
        jax.jit(lambda c, m: selector.draw(c, m, EVERY)),
        jax.jit(lambda m, s, a: selector.observe(m, s, a, EVERY)),
    )
    for count in range(30):
        selected = np.asarray(draw(count, memory))
        a = rng.gamma(2.0, np.linspace(0.2, 2, L))
        memory = observe(memory, selected, jnp.asarray(a, jnp.float32))
        want = learn(want, selected, a, 1e-3, 0.3 * L, scale_free)
        got = np.asarray(memory.probability)
        assert np.allclose(got, want, rtol=1e-4), count
        assert got.sum() == pytest.approx(0.3 * L, rel=1e-5)
        assert got.max() <= 1
    assert np.ptp(want) > 0.01  # else nothing was learnt


class _Layers:
    names = tuple(map(str, range(L)))


def test_without_scale_free_the_scale_of_the_loss_matters():
    """The authors' rule: norms ten times as large learn a hundred times as fast."""
    a = jnp.asarray(np.linspace(0.1, 1, L), jnp.float32)
    for scale_free in (False, True):
        selector = lsam.bandit(0.5, scale_free=scale_free)
        start = selector.init(_Layers, [])
        small, large = (selector.observe(start, EVERY, s * a, EVERY).probability for s in (1, 10))
        assert np.allclose(small, large, rtol=1e-5) == scale_free


@pytest.mark.parametrize("total", [0.5, 3.0, 7.5, 12.0])
def test_projection_on_the_capped_simplex(total):
    from lsam_jax.components.bandit import _project  # noqa: PLC0415

    w = np.random.default_rng(1).gamma(0.5, size=L)
    got = np.asarray(_project(jnp.asarray(w, jnp.float32), total))
    assert np.allclose(got, project(w, total), rtol=1e-5)
    assert got.sum() == pytest.approx(total, rel=1e-5)


def test_draws_have_the_probabilities():
    """Each layer as often as its p says, given that the draw is not empty; none is starved."""
    selector = lsam.bandit(0.2)
    p = np.asarray([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0, 0.01, 0.0, 0.7, 0.4])
    memory = selector.init(_Layers, [])._replace(probability=jnp.asarray(p, jnp.float32))
    n = 4000
    draws = jax.vmap(lambda c: selector.draw(c, memory, EVERY))(jnp.arange(n))
    rates = np.asarray(draws).mean(0)
    assert np.all(np.abs(rates - p) <= 4 * np.sqrt(p * (1 - p) / n))
    assert rates[7] == 1
    together = np.mean(np.asarray(draws)[:, 3] & np.asarray(draws)[:, 4])
    assert together == pytest.approx(0.06, abs=0.016)  # independent


def test_an_empty_draw_is_drawn_again():
    """With two layers of p = 0.05: P(first | not empty) = 0.05 / (1 - 0.95^2)."""
    selector = lsam.bandit(0.2)
    p = np.zeros(L)
    p[[2, 5]] = 0.05
    memory = selector.init(_Layers, [])._replace(probability=jnp.asarray(p, jnp.float32))
    draws = jax.vmap(lambda c: selector.draw(c, memory, EVERY))(jnp.arange(2000))
    draws = np.asarray(draws)
    assert draws.any(1).all()
    assert draws[:, 2].mean() == pytest.approx(0.05 / (1 - 0.95**2), abs=0.045)


def test_only_candidates_are_drawn_and_share_the_probability():
    selector = lsam.bandit(0.5, 1e-2)
    few = np.arange(L) >= 8
    memory = selector.init(_Layers, [])

    @jax.jit
    def step(count, memory):
        selected = selector.draw(count, memory, few)
        return selected, selector.observe(memory, selected, jnp.linspace(0.1, 1, L), few)

    for count in range(20):
        selected, memory = step(count, memory)
        assert not np.any(np.asarray(selected) & ~few)
        p = np.asarray(memory.probability)
        assert p[few].sum() == pytest.approx(0.5 * 4, rel=1e-5)
        assert np.all(p[~few] == 0.5)


@pytest.mark.parametrize("active", [0.0, -0.1, 1.1, float("nan")])
def test_active_is_a_share(active):
    with pytest.raises(ValueError, match="active"):
        lsam.bandit(active)


@pytest.mark.parametrize("p", [0.1, 0.6, lambda count: 0.6 + 0 * count])
def test_independent_draws_have_their_probability(p):
    draw = lsam.independent(p, seed=4).draw
    draws = np.asarray(jax.vmap(lambda c: draw(c, (), np.arange(L) > 0))(jnp.arange(3000)))
    expected = 0.6 if callable(p) else p
    assert np.all(np.abs(draws[:, 1:].mean(0) - expected) < 4 * np.sqrt(0.25 / 3000))
    assert not draws[:, 0].any()
    assert np.mean(draws[:, 3] & draws[:, 7]) == pytest.approx(expected**2, abs=0.036)
