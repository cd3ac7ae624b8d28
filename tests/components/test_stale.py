"""An ascent along the direction of the step before: every method it fits, through every face.

The oracle: one `jax.grad` a step, at weights moved by hand along what the last one gave.
"""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from textbook import named, norm, relative_error, unnamed
from training import EXACT

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

STEPS, LR, RHO = 20, 0.05, 0.3
KERNELS = ("a/w", "z/w")


def along(d, paths, rho):
    """rho d / ||d|| over these arrays; nothing where d is 0."""
    size = norm(*(d[path] for path in paths))
    return {path: rho * d[path] / size if size else 0 * d[path] for path in paths}


def of_sam(w, d, norms):
    return along(d, list(w), RHO)


def of_layerwise(w, d, norms):
    chosen = max(KERNELS, key=lambda path: (norms[path], KERNELS.index(path)))
    return along(d, [chosen], RHO)


def of_plain_layerwise(w, d, norms):
    chosen = max(KERNELS, key=lambda path: (norms[path], KERNELS.index(path)))
    return {chosen: RHO * d[chosen]}


def of_asam(w, d, norms):
    T = {p: 1.0 if p.endswith("/b") else np.abs(x) + 0.01 for p, x in w.items()}
    size = norm(*(T[p] * d[p] for p in w))
    return {p: RHO * T[p] ** 2 * d[p] / size if size else 0 * d[p] for p in w}


METHODS = {
    "sam": (lsam.sam, {}, of_sam),
    "generalized_sam": (lsam.generalized_sam, {"alpha": 1.0}, of_sam),
    "layerwise_sam": (lsam.layerwise_sam, {"k": 1, "normalize": True}, of_layerwise),
    "layerwise_sam, as in the paper": (lsam.layerwise_sam, {"k": 1}, of_plain_layerwise),
    "asam": (lsam.asam, {}, of_asam),
}
FACES = ("value_and_grad", "value_fn", "grad_fn", "jit", "shard_map", "m")
GRADIENT = jax.jit(jax.value_and_grad(contract.loss))


REST = {"generalized_sam": 1.0, "layerwise_sam": 0.2}  # 0.6 for the others; 1 never rests


def method(name, decay=0.0, rho=RHO, **more):
    make, options, _ = METHODS[name]
    ascent = lsam.stale(decay, **({"rest": REST[name]} if name in REST else {}))
    return lsam.with_parts(make(rho=rho, **options, **more), ascent=ascent)


def cosine(paths, a, b):
    """Between two dicts of arrays, over these paths; 0 where one of them is 0."""
    inner = sum(float(np.sum(a[path] * b[path])) for path in paths)
    return inner and inner / (norm(*(a[p] for p in paths)) * norm(*(b[p] for p in paths)))


def textbook(name, decay, batches):
    """Loss, direction and weights of each step, and whether it rests."""
    move = METHODS[name][2]
    params = contract.parameters()
    w = named(params)
    d, norms, rests = {p: 0 * x for p, x in w.items()}, dict.fromkeys(w, 0.0), False
    for batch in batches:
        eps = {} if rests else move(w, d, norms)
        moved = {**w, **{p: w[p] + e for p, e in eps.items()}}
        loss, h = GRADIENT(unnamed(moved, params), *batch)
        h, rested = named(h), rests
        rests = bool(eps) and bool(cosine(list(eps), d, h) > REST.get(name, 0.6))
        d = {p: decay * d[p] + (1 - decay) * h[p] for p in w}
        norms = {p: np.float32(norm(h[p])) for p in w}
        w = {p: w[p] - LR * h[p] for p in w}
        yield loss, h, w, rested


def mesh():
    return Mesh(np.array(jax.devices()[:4]), ("batch",))


def step_of(name, face, decay):
    """`(params, state, batch) -> (loss or None, direction, state)`."""
    tx = method(name, decay, **({"axis_name": "batch"} if face == "shard_map" else {}))
    parts = {"m": 4, "batch_argnums": (1, 2)} if face == "m" else {}
    both = lsam.value_and_grad(contract.loss, tx, **parts)
    if face in ("value_and_grad", "jit", "m"):
        return jax.jit(lambda p, s, b: both(p, s, *b))
    if face == "shard_map":
        return jax.jit(
            jax.shard_map(
                lambda p, s, b: both(p, s, *b),
                mesh=mesh(),
                in_specs=(P(), P(), P("batch")),
                out_specs=P(),
            )
        )
    unused = jax.tree.map(jnp.zeros_like, contract.parameters())

    @jax.jit
    def update(params, state, batch):
        by = (
            {"value_fn": lambda p: contract.loss(p, *batch)}
            if face == "value_fn"
            else {"grad_fn": lambda p: jax.grad(contract.loss)(p, *batch)}
        )
        return None, *tx.update(unused, state, params, **by)

    return update


def place(face, tree, spec):
    return jax.device_put(tree, NamedSharding(mesh(), spec)) if face == "jit" else tree


def cases():
    """All but the choice of layers by parts of a batch, which is by the mean of their norms."""
    return [(n, f) for n in METHODS for f in FACES if f != "m" or "layerwise" not in n]


@pytest.mark.parametrize(("name", "face"), cases())
def test_like_the_textbook(name, face):
    decay = 0.6 if name in ("sam", "layerwise_sam, as in the paper") else 0.0
    batches = [contract.batch(i % 5, size=8) for i in range(STEPS)]
    step, params = step_of(name, face, decay), place(face, contract.parameters(), P())
    state = place(face, method(name, decay).init(contract.parameters()), P())
    for count, (batch, want) in enumerate(zip(batches, textbook(name, decay, batches))):
        loss, direction, state = step(params, state, place(face, batch, P("batch")))
        if loss is not None:
            assert abs(loss - want[0]) <= EXACT * abs(want[0])
        got = named(direction)
        for path in got:
            assert relative_error(got[path], want[1][path]) <= EXACT, (count, path)
        params = place(face, unnamed(want[2], contract.parameters()), P())
    assert int(state.count) == STEPS


@pytest.mark.parametrize("name", METHODS)
def test_the_textbook_rests_now_and_then(name):
    batches = [contract.batch(i % 5, size=8) for i in range(STEPS)]
    rested = sum(rests for *_, rests in textbook(name, 0.6, batches))
    assert rested == 0 if name == "generalized_sam" else 3 <= rested < STEPS / 2


def test_a_gradient_function_is_asked_once():
    """Also where JAX may have summed the given gradient over devices, so that it cannot be used."""
    asked = []

    def grad_fn(params):
        asked.append(1)
        return jax.grad(contract.loss)(params, *contract.batch())

    tx = method("sam", axis_name="batch")
    params = contract.parameters()
    step = jax.shard_map(
        lambda p, s: tx.update(p, s, p, grad_fn=grad_fn),
        mesh=mesh(),
        in_specs=P(),
        out_specs=P(),
    )
    jax.make_jaxpr(step)(params, tx.init(params))
    assert len(asked) == 1
