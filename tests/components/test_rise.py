"""A radius that follows the rise of the loss: against a textbook, and at its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from samples import ORDER, every, loss, network
from training import assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

STEPS, LR = 20, 0.1
GRADIENT = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b)[0]))


class Radius:
    """The controller in Python's numbers, written from its definition."""

    def __init__(self, nats=None, share=None, cap=0.2, first=0.1, bounds=(1e-3, 10.0), speed=0.2):
        self.nats, self.share, self.cap, self.bounds, self.speed = nats, share, cap, bounds, speed
        self.rho, self.losses, self.rise, self.pairs = first, [], 0.0, []

    def now(self):
        return 0.0 if self.share and not self.losses else self.rho

    def mean_loss(self):
        mean = 0.0
        for n, x in enumerate(self.losses):
            keep = min(0.95, n / (n + 4))
            mean = keep * mean + (1 - keep) * x
        return mean

    def flat(self):
        weights = np.array([0.05 * 0.95**n for n in range(len(self.pairs))][::-1])
        weights[0] /= 0.05
        x, r = np.array(self.pairs).T
        mean_x, mean_r = weights @ x, weights @ r
        variance = weights @ x**2 - mean_x**2
        covariance = weights @ (x * r) - mean_x * mean_r
        return variance > 0.01 and mean_r > 0 and covariance < 0.1 * mean_r * variance

    def far(self, target):
        """Twice the radius of this rise, by the first hundred moves."""
        rho, r = np.mean([(np.exp(x), r) for x, r in self.pairs[:100]], axis=0)
        if len(self.pairs) < 10 or r <= 0 or target <= 0:
            return np.inf
        return 2 * rho * max(target / r, np.sqrt(target / r))

    def after(self, loss, r):
        """A step at whose perturbed weights the loss is `loss`."""
        self.losses.append(loss if r else loss + self.rise)
        if r == 0:
            return
        self.rise = 0.8 * self.rise + 0.2 * r if self.pairs else r
        self.pairs.append((np.log(self.rho), r))
        left = self.losses[0] - self.mean_loss()
        target = self.nats
        if self.share:
            target = min(self.share / (1 - self.share) * left, self.cap * self.losses[0])
        error = -1.0
        if target > 0:
            error = 1.0 if self.rise <= 0 else min(max(np.log(target / self.rise), -1.0), 1.0)
        error = -abs(error) if self.flat() else error
        rho = min(self.rho * np.exp(self.speed * error), self.far(target))
        self.rho = min(max(rho, self.bounds[0]), self.bounds[1])


def largest(norms):
    return textbook.choose(norms, 1, ORDER)


def everything(norms):
    return set(network()[0])


METHODS = {  # how it is made, what it moves, and the share of g in the direction
    "sam": (lsam.sam, everything, 0.0),
    "layerwise_sam": (lambda rho, **o: lsam.layerwise_sam(1, rho, normalize=True, **o), largest, 0),
    "layerwise_sam, mixed": (
        lambda rho, **o: lsam.layerwise_sam(1, rho, 0.7, normalize=True, **o),
        largest,
        0.3,
    ),
    "a part": (lsam.sam, everything, 0.0),
    "stale": (
        lambda rho, **o: lsam.with_parts(lsam.sam(rho, **o), ascent=lsam.stale()),
        everything,
        0.0,
    ),
}
OTHER_FACES = ("chain", "jit", "shard_map")
RADII = {"nats": {"nats": 0.05}, "share": {"share": 0.4}}


def rise(options):
    options = dict(options)
    target = options.pop("nats", None)
    return lsam.rise(target, **options)


@functools.cache
def by_hand(name, radius):
    """Radius, rise, direction and weights of each step, by two `jax.grad`."""
    return list(steps_by_hand(name, RADII[radius]))


def steps_by_hand(name, options):
    _, choose, share = METHODS[name]
    radius, (params, batches) = Radius(**options), network()
    norms, last = dict.fromkeys(ORDER, 0.0), jax.tree.map(jnp.zeros_like, params)
    rests = False
    for batch in [batches[n % 4] for n in range(STEPS)]:
        chosen = choose(norms)
        g = last
        if name != "stale":
            _, g = GRADIENT(params, every(batch, 4) if name == "a part" else batch)
        size = np.sqrt(sum(float(jnp.sum(g[n] ** 2)) for n in chosen)) or 1.0
        rho = 0.0 if rests else radius.now()
        eps = {n: rho * g[n] / size if n in chosen else 0 * g[n] for n in g}
        value, h = GRADIENT({n: w + eps[n] for n, w in params.items()}, batch)
        r = sum(float(jnp.sum(h[n] * eps[n])) for n in h)
        radius.after(float(value), r)
        length = np.sqrt(sum(float(jnp.sum(x**2)) for x in h.values()))
        rested, rests = rests, name == "stale" and r > 0.6 * rho * length
        last = {n: share * g[n] + (1 - share) * h[n] if n in chosen else h[n] for n in h}
        params = {n: w - LR * last[n] for n, w in params.items()}
        norms = {n: float(jnp.linalg.norm(h[n])) for n in ORDER}
        if not rested:
            shown = rho, r
        yield *shown, last, params


def mesh():
    return Mesh(np.array(jax.devices()[:4]), ("d",))


def step_of(name, face, options):
    """`(params, state, batch) -> (direction, state)`, and the method."""
    make = METHODS[name][0]
    tx = make(rise(options), **({"axis_name": "d"} if face == "shard_map" else {}))
    part = {"ascent_batch": 1 / 4} if name == "a part" else {}
    both = lsam.value_and_grad(loss, tx, has_aux=True, **part)

    def plain(params, state, batch):
        return both(params, state, batch)[1:]

    def chained(params, state, batch):
        ascent = {"ascent_fn": lambda p: loss(p, every(batch, 4))[0]} if part else {}
        of = lambda p: loss(p, batch)[0]  # noqa: E731
        optimizer = optax.chain(tx, optax.identity())
        state = (state, optax.EmptyState())
        direction, (state, _) = optimizer.update(None, state, params, value_fn=of, **ascent)
        return direction, state

    def on_devices(params, state, batch):
        where = mesh(), (P(), P(), P("d")), P()
        return jax.shard_map(plain, mesh=where[0], in_specs=where[1], out_specs=P())(
            params, state, batch
        )

    faces = {"value_and_grad": plain, "chain": chained, "jit": plain, "shard_map": on_devices}
    return jax.jit(faces[face]), tx


# What the target is made of is the same through every face: a fixed one goes through the first.
FACES = [("value_and_grad", "nats"), *((f, "share") for f in ("value_and_grad", *OTHER_FACES))]


@pytest.mark.slow
@pytest.mark.parametrize(("face", "radius"), FACES)
@pytest.mark.parametrize("name", METHODS)
def test_trains_like_the_textbook(name, face, radius):
    step, tx = step_of(name, face, RADII[radius])
    params, batches = network()
    state = tx.init(params)
    for count, (rho, r, direction, want) in enumerate(by_hand(name, radius)):
        batch = batches[count % 4]
        if face == "jit":
            params, state = jax.device_put((params, state), NamedSharding(mesh(), P()))
        placed = jax.device_put(batch, NamedSharding(mesh(), P("d"))) if face == "jit" else batch
        got, state = step(params, state, placed)
        assert_same(got, direction)
        assert float(state.rho) == pytest.approx(rho, rel=1e-6)
        assert float(state.rise) == pytest.approx(r, rel=1e-5, abs=1e-12)
        params = want
    radii = [rho for rho, *_ in by_hand(name, radius)[1:]]
    assert max(radii) > 1.02 * min(radii)


H = np.diag([1.0, 2.0, 5.0, 0.5]) + 0.3


def quadratic(w):
    w = jnp.concatenate([w["a"], w["b"]])
    return w @ H @ w / 2


WEIGHTS = {"a": jnp.asarray([0.5, -1.0]), "b": jnp.asarray([0.3, 2.0])}


@pytest.mark.parametrize("tau", [0.05, 2.0])
@pytest.mark.parametrize("name", ["sam", "layerwise_sam", "asam"])
def test_settles_where_the_rise_is_the_target(name, tau):
    """r = rho e'Hw + rho^2 e'He, e being the direction of a radius of 1."""
    w = np.concatenate(list(WEIGHTS.values()))
    g = H @ w
    if name == "asam":
        e = (np.abs(w) + 0.01) ** 2 * g / np.linalg.norm((np.abs(w) + 0.01) * g)
    else:
        e = g if name == "sam" else g * [0, 0, 1, 1]
        e = e / np.linalg.norm(e)
    along, across = e @ g, e @ H @ e
    want = (-along + np.sqrt(along**2 + 4 * across * tau)) / (2 * across)
    radius = lsam.rise(tau, first=1.0)
    tx = {
        "sam": lsam.sam,
        "layerwise_sam": lambda rho: lsam.layerwise_sam(
            None, rho, selection=["b"], normalize=True, layers="array"
        ),
        "asam": lambda rho: lsam.asam(rho, scaled=lambda path: True),
    }[name](radius)
    step, state = jax.jit(lsam.value_and_grad(quadratic, tx)), tx.init(WEIGHTS)
    found = []
    for _ in range(150):
        _, _, state = step(WEIGHTS, state)
        found.append(float(state.rho))
    assert np.mean(found[100:]) == pytest.approx(want, rel=0.05)
    assert float(state.rise) == pytest.approx(tau, rel=0.05)
