"""Networks that nobody wrote: blocks drawn from a table, in one another, by the number of a seed.

A kind of block is a function of a `Drawing`, from which it takes arrays, choices and the blocks
inside it. It gives a function of the parameters, by name, of what comes in, and of what else the
loss is given. Those of the kinds in PLAIN go from rows of features to such rows, those in NESTING
from a `Hidden` to another.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from zoo.common import CLASSES, array, batches, cross_entropy

import lsam_jax as lsam

WIDTH, ROWS, WORDS = 4, 4, 7
DEEPEST = 2  # how many blocks a block may stand in


class Hidden(NamedTuple):
    x: Any
    seen: Any  # statistics of batches, for aux


class Network(NamedTuple):
    seed: int
    params: dict
    loss: Any  # (params, data, key) -> (loss, aux)
    data: dict  # a row for each sample
    key: Any
    layers: Any  # as the methods take it
    description: str


class Drawing:
    """A network while it is drawn."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.params, self.squares, self.drawn = {}, [], []
        self.copies, self.depth = (), 0  # of the blocks around

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def array(self, *shape):
        """The name of a new array, in an order of leaves that says nothing of the network's."""
        name = f"{self.one_of(*'qrstuvwxyz')}{len(self.params)}"
        name = f"stack_{name}" if self.copies else name
        each = [array(self.rng, *shape) for _ in range(np.prod(self.copies, dtype=int))]
        self.params[name] = jnp.stack(each).reshape(*self.copies, *shape)
        return name

    def square(self):
        """A new weight, which blocks to come may share."""
        self.squares.append(self.array(WIDTH, WIDTH))
        return self.squares[-1]

    def block(self):
        kind = self.one_of(*(self.one_of(PLAIN, NESTING) if self.depth < DEEPEST else PLAIN))
        self.drawn.append("  " * self.depth + kind.__name__)
        self.depth += 1
        block = kind(self)
        self.depth -= 1
        if kind in NESTING:
            return block
        return lambda p, h, given: h._replace(x=block(p, h.x, given))

    def stack(self):
        """A block with so many copies of its arrays, along their first axis, and their names."""
        before, squares, copies = {*self.params}, [*self.squares], self.one_of(2, 3)
        self.copies += (copies,)
        block = self.block()
        self.copies, self.squares = self.copies[:-1], squares
        return block, copies, [name for name in self.params if name not in before]


def dense(draw):
    w, b, bend = draw.square(), draw.array(WIDTH), draw.one_of(jnp.tanh, jax.nn.gelu, jax.nn.silu)
    return lambda p, x, given: bend(x @ p[w] + p[b])


def tied(draw):
    """A weight of a block before, or its transpose."""
    w, turned = draw.one_of(*(draw.squares or [draw.square()])), draw.one_of(True, False)
    return lambda p, x, given: jnp.sin(x @ (p[w].T if turned else p[w]))


def weight_of_weights(draw):
    w, down, up = draw.square(), draw.array(WIDTH, 2), draw.array(2, WIDTH)
    return lambda p, x, given: jnp.tanh(x @ (p[w] - p[w].mean(0) + p[down] @ p[up]))


def convolution(draw):
    w, convolve = draw.array(2, 1, 1, 3), partial(jax.lax.conv, padding="SAME")
    return lambda p, x, given: jnp.tanh(convolve(x[:, None, None], p[w], (1, 1))).sum((1, 2))


def embedding(draw):
    table = draw.array(WORDS, WIDTH)
    return lambda p, x, given: x + p[table][given["words"]]


def dropout(draw):
    w, keep = draw.square(), partial(jax.random.bernoulli, p=0.7)
    return lambda p, x, given: jnp.where(keep(given["key"], shape=x.shape), x @ p[w], x)


def recurrence(draw):
    """A scan over time, with the same weights in each iteration."""
    own, of_input = draw.square(), draw.square()

    def run(p, x, given):
        def each(h, x):
            return jnp.tanh(h @ p[own] + x @ p[of_input]), h

        h, before = jax.lax.scan(each, x, jnp.stack([x, x**2, jnp.cos(x)]))
        return h + before.mean(0)

    return run


@jax.custom_vjp
def as_a_sine(x):
    """x, whose gradient is by a rule that is not its derivative."""
    return x


@jax.custom_jvp
def softplus(x):
    return jnp.logaddexp(x, 0)


as_a_sine.defvjp(lambda x: (x, x), lambda x, error: (error * jnp.cos(x),))
softplus.defjvps(lambda tangent, y, x: tangent * jax.nn.sigmoid(x))


def custom_vjp(draw):
    w = draw.square()
    return lambda p, x, given: as_a_sine(x @ p[w])


def custom_jvp(draw):
    w = draw.square()
    return lambda p, x, given: softplus(x @ p[w])


def halved_until_small(draw):
    """A loop of unknown length, without a gradient."""
    w = draw.square()

    def run(p, x, given):
        y = x @ p[w]
        size = jnp.max(jnp.abs(jax.lax.stop_gradient(y)))
        return y * jax.lax.while_loop(lambda s: s * size > 1, lambda s: s / 2, 1.0)

    return run


def residual(draw):
    """A skip over two blocks."""
    one, other = draw.block(), draw.block()

    def run(p, h, given):
        there = other(p, one(p, h, given), given)
        return there._replace(x=h.x + there.x)

    return run


def gated(draw):
    """Two branches; a scalar and a vector say how much of each."""
    one, other, scalar, vector = draw.block(), draw.block(), draw.array(), draw.array(WIDTH)

    def run(p, h, given):
        (x, seen), (y, seen_too) = one(p, h, given), other(p, h, given)
        return Hidden(p[scalar] * x + jax.nn.sigmoid(p[vector]) * y, seen + seen_too)

    return run


def batch_norm(draw):
    inner, scale = draw.block(), draw.array(WIDTH)

    def run(p, h, given):
        mean, variance = h.x.mean(0), h.x.var(0)
        x = p[scale] * (h.x - mean) * jax.lax.rsqrt(variance + 0.1)
        return inner(p, Hidden(x, h.seen + jnp.stack([mean, variance])), given)

    return run


def jitted(draw):
    inner = draw.block()
    return lambda p, h, given: jax.jit(partial(inner, p))(h, given)


def checkpointed(draw):
    inner, policy = draw.block(), draw.one_of(None, jax.checkpoint_policies.dots_saveable)
    return lambda p, h, given: jax.checkpoint(partial(inner, p), policy=policy)(h, given)


def conditional(draw):
    """One of two blocks, by the data."""
    one, other = draw.block(), draw.block()
    return lambda p, h, given: jax.lax.cond(
        h.x[0].sum() > 0, partial(one, p), partial(other, p), h, given
    )


def scanned(draw):
    """Copies in a scan, from the first or from the last on; what came in goes to each of them.

    Each may see the arrays of all.
    """
    (block, copies, own), reverse = draw.stack(), draw.one_of(True, False)
    of_all = draw.one_of(0, 0, 0.1)

    def run(p, start, given):
        def each(h, rows):
            seen = of_all and of_all * sum(jnp.sin(p[name]).mean() for name in own)
            h = block({**p, **rows}, h, given)
            return h._replace(x=h.x + start.x / 2 + seen), h.x.mean()

        h, means = jax.lax.scan(each, start, {name: p[name] for name in own}, copies, reverse)
        return h._replace(x=h.x + jnp.sin(means).mean())

    return run


def side_by_side(draw):
    """The mean of copies, by vmap."""
    block, copies, own = draw.stack()

    def run(p, h, given):
        each = jax.vmap(lambda rows, _: block({**p, **rows}, h, given))
        found = each({name: p[name] for name in own}, jnp.arange(copies))
        return jax.tree.map(lambda x: x.mean(0), found)

    return run


PLAIN = (dense, tied, tied, weight_of_weights, convolution, embedding, dropout, recurrence)
PLAIN += (custom_vjp, custom_jvp, halved_until_small)
NESTING = (residual, gated, batch_norm, jitted, checkpointed, conditional, side_by_side)
NESTING += (scanned, scanned)


@cache
def network(seed):
    """The network of a seed; to be called in double precision."""
    draw = Drawing(seed)
    one, other, head = draw.block(), draw.block(), draw.array(WIDTH, CLASSES)
    _unused = draw.array(WIDTH)
    decay, whole = draw.one_of(0, 0.01), draw.one_of(jax.jit, jax.checkpoint, lambda loss: loss)

    def loss(p, data, key):
        given, h = {**data, "key": key}, Hidden(data["x"], jnp.zeros((2, WIDTH)))
        h = other(p, one(p, h, given), given)
        value, aux = cross_entropy(h.x @ p[head], data["y"])
        return value + decay * sum(jnp.sum(w**2) for w in p.values()), {**aux, "seen": h.seen}

    data = batches(draw.rng, WIDTH, batch=ROWS)[0]
    key, data["words"] = data.pop("key"), jnp.asarray(draw.rng.integers(0, WORDS, ROWS))
    stacks = any("stack_" in name for name in draw.params)
    layers = lsam.stacked("stack_", "array") if stacks else "array"
    return Network(seed, draw.params, whole(loss), data, key, layers, "\n".join(draw.drawn))
