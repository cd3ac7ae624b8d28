"""A step on a scanned transformer costs its floor, within 2 %, wherever it is cut.

XLA's `cost_analysis` counts the body of a loop once, so there are two counts: of the products of
matrices in a traced program, a loop counting its body times its length; and XLA's of the program
with its loops unrolled. The floor is made of blocks in a Python loop, cut by hand: a plain
gradient, and the gradient of what stands behind the cut with respect to what is perturbed.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import flops
from jax.extend import core as jex
from staged import weight

import lsam_jax as lsam

DEPTH, WIDTH, HEADS, LENGTH, BATCH, WORDS = 12, 32, 2, 16, 4, 24
WITHIN = 0.02
BLOCKS = lsam.stacked("blocks", layers="slice")


def layer_norm(x, scale):
    x = x - x.mean(-1, keepdims=True)
    return scale * x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def block(x, p):
    shape = (*x.shape[:-1], HEADS, WIDTH // HEADS)
    y = layer_norm(x, p["scale0"])
    q, k, v = ((y @ p[name]).reshape(shape) for name in ("q", "k", "v"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    scores = jax.nn.softmax(jnp.where(np.tri(LENGTH, dtype=bool), scores, -1e9))
    x = x + jnp.einsum("bhqk,bkhd->bqhd", scores, v).reshape(x.shape) @ p["out"]
    return x + jax.nn.relu(layer_norm(x, p["scale1"]) @ p["up"]) @ p["down"], None


@functools.cache
def parameters():
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(("q", "k", "v", "out"), (WIDTH, WIDTH))
    shapes |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    blocks = {n: jnp.stack([weight(rng, *s) for _ in range(DEPTH)]) for n, s in shapes.items()}
    blocks |= {f"scale{i}": jnp.ones((DEPTH, WIDTH)) for i in range(2)}
    embedding, head = weight(rng, WORDS, WIDTH), weight(rng, WIDTH, WORDS)
    return {"blocks": blocks, "embedding": embedding, "a_head": head}


def words():
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.integers(0, WORDS, (BATCH, LENGTH))) for _ in range(2))


def error(x, head, labels):
    log_p = jax.nn.log_softmax(x @ head)
    return -jnp.take_along_axis(log_p, labels[..., None], -1).mean()


def transformer(remat):
    body = jax.checkpoint(block) if remat else block

    def loss(p, batch):
        x, _ = jax.lax.scan(body, p["embedding"][batch[0]], p["blocks"])
        return error(x, p["a_head"], batch[1])

    return loss


def ascent(remat, perturbed):
    """The loss behind the cut, of the weights of the blocks that are perturbed."""
    body = jax.checkpoint(block) if remat else block

    def loss(moving, fixed, x, head, labels):
        for i in range(min(perturbed), DEPTH):
            x, _ = body(x, moving[i] if i in moving else fixed[i])
        return error(x, head, labels)

    each = [jax.tree.map(lambda w, i=i: w[i], parameters()["blocks"]) for i in range(DEPTH)]
    fixed = {i: p for i, p in enumerate(each) if i not in perturbed}
    x = jnp.ones((BATCH, LENGTH, WIDTH))
    args = ({i: each[i] for i in perturbed}, fixed, x, parameters()["a_head"], words()[1])
    return loss, args


def products(fun, *args):
    """Floating-point operations of the products of matrices in a traced program."""
    return count(jax.make_jaxpr(fun)(*args).jaxpr)


def count(jaxpr):
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            size = math.prod(eqn.outvars[0].aval.shape)
            total += 2 * size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        inside = [count(inner) for inner in nested(eqn)]
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += times * (max if eqn.primitive.name == "cond" else sum)(inside or [0])
    return total


def nested(eqn):
    for value in eqn.params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if hasattr(x, "eqns"):
                yield getattr(x, "jaxpr", x)


def without_loops(fun, *args):
    """The program with every scan unrolled, and flat arguments for it."""

    def changed(value):
        if isinstance(value, tuple):
            return tuple(map(changed, value)) if any(map(is_program, value)) else value
        if not is_program(value):
            return value
        if isinstance(value, jex.ClosedJaxpr) and hasattr(value, "jaxpr"):
            return value.replace(jaxpr=unrolled(value.jaxpr))
        return unrolled(value)

    def is_program(value):
        return isinstance(value, jex.ClosedJaxpr | jex.Jaxpr)

    def unrolled(jaxpr):
        eqns = []
        for eqn in jaxpr.eqns:
            params = {name: changed(value) for name, value in eqn.params.items()}
            if eqn.primitive.name == "scan":
                params["unroll"] = params["length"]
            eqns.append(eqn.replace(params=params))
        return jaxpr.replace(eqns=eqns)

    closed = jax.make_jaxpr(fun)(*args)
    program = jex.ClosedJaxpr(unrolled(closed.jaxpr), closed.consts)
    return jex.jaxpr_as_fun(program), jax.tree.leaves(args)


def by_xla(fun, *args):
    program, args = without_loops(fun, *args)
    return flops(program, *args)


def step(remat, perturbed, layers=BLOCKS):
    names = [f"blocks/{i}" for i in perturbed]
    tx = lsam.layerwise_sam(None, 0.1, 0.8, layers=layers, selection=names)
    value_and_grad = lsam.value_and_grad(transformer(remat), tx)
    return value_and_grad, (parameters(), tx.init(parameters()), words())


@functools.cache
def plain(remat, counter):
    return counter(jax.value_and_grad(transformer(remat)), parameters(), words())


def floor(remat, perturbed, counter):
    loss, args = ascent(remat, perturbed)
    return plain(remat, counter) + counter(jax.value_and_grad(loss), *args)


AT_EACH_CUT = [
    pytest.param(cut, marks=pytest.mark.core if cut in (0, 10) else ()) for cut in range(DEPTH)
]


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("cut", AT_EACH_CUT)
def test_a_step_costs_the_floor_at_each_cut(remat, cut):
    perturbed = tuple(range(cut, DEPTH))
    fun, args = step(remat, perturbed)
    assert products(fun, *args) == pytest.approx(floor(remat, perturbed, products), rel=WITHIN)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("perturbed", [(0,), (2, 5, 9), (3, 4, 11)])
def test_slices_apart_cost_their_own_gradients_only(remat, perturbed):
    fun, args = step(remat, perturbed)
    got, want = products(fun, *args), floor(remat, perturbed, products)
    assert got == pytest.approx(want, rel=WITHIN)
    behind = tuple(range(perturbed[0], DEPTH))
    assert want < 0.95 * floor(remat, behind, products)  # so that all gradients would be seen


def test_a_cut_inside_a_block_costs_the_floor():
    """Only the last kernel of a block: what stands before it in the block is not computed again."""
    tx = lsam.layerwise_sam(
        None, 0.1, 0.8, layers=lsam.stacked("blocks"), selection=["blocks/9/down"]
    )
    value_and_grad = lsam.value_and_grad(transformer(False), tx)
    got = products(value_and_grad, parameters(), tx.init(parameters()), words())
    loss, (moving, *rest) = ascent(False, (9,))

    def of_kernel(down, p, *rest):
        return jax.value_and_grad(lambda down: loss({9: {**p, "down": down}}, *rest))(down)

    whole = products(of_kernel, moving[9]["down"], moving[9], *rest)
    x = jnp.ones((BATCH, LENGTH, WIDTH))
    a_block = products(lambda x, p: block(x, p)[0], x, moving[9])
    before = a_block - 2 * x.size * 4 * WIDTH
    want = plain(False, products) + whole - before
    assert got == pytest.approx(want, rel=0.001)
    assert before > 0.01 * want


@pytest.mark.slow
def test_xla_counts_the_same():
    """For the last two blocks."""
    fun, args = step(False, (10, 11))
    assert by_xla(fun, *args) == pytest.approx(floor(False, (10, 11), by_xla), rel=WITHIN)


def test_it_costs_far_more_if_the_blocks_are_no_layers():
    """So that the tests above can fail."""
    whole = lsam.layerwise_sam(None, 0.1, 0.8, layers="kernel", selection=["blocks/down"])
    undeclared = lsam.value_and_grad(transformer(False), whole)
    args = (parameters(), whole.init(parameters()), words())
    assert products(undeclared, *args) > 1.6 * plain(False, products)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_inspection_prices_blocks(remat):
    report = lsam.inspect(transformer(remat), parameters(), words(), layers=BLOCKS, cuts=100)
    assert [row.name for row in report.layers][1:-1] == [f"blocks/{i}" for i in range(DEPTH)]
    for perturbed in [(0,), (2, 5, 9), (10, 11)]:
        want = floor(remat, perturbed, products) / plain(remat, products)
        found = report.cost([f"blocks/{i}" for i in perturbed])
        assert found == pytest.approx(want, rel=WITHIN)
