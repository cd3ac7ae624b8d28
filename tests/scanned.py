"""Models that scan over stacked layers, and the textbook's view of them: a list of blocks.

The textbook masks whole arrays. So it is given the slices as arrays of their own, under the paths
that they would have in a list of blocks, and stacks them for the same loss.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from zoo.common import CLASSES, Case, array, batches, cross_entropy, layer_norm

WIDTH, DEPTH = 6, 3


def slices(tree):
    """The tree with every stack, a dictionary of arrays, as a list of blocks."""
    return {
        name: [jax.tree.map(lambda a, i=i: a[i], x) for i in range(DEPTH)]
        if "blocks" in name
        else x
        for name, x in tree.items()
    }


def stacks(tree):
    """The inverse."""
    return {
        name: jax.tree.map(lambda *a: jnp.stack(a), *x) if isinstance(x, list) else x
        for name, x in tree.items()
    }


def textbook_gradient(loss):
    """`loss`'s value and gradient as a function of a tree with lists of blocks."""
    of_stacks = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def value_and_grad(params, batch):
        out, grads = of_stacks(stacks(params), batch)
        return out, slices(grads)

    return value_and_grad


def block(x, p):
    """What is scanned: the carry, and two numbers to collect."""
    h = jnp.tanh(layer_norm(x, p["scale"]) @ p["up"])
    return x + h @ p["down"], {"size": jnp.mean(h**2), "first": h[0]}


def parameters(*stack_names):
    rng = np.random.default_rng(8)

    def stack():
        return {
            "up": array(rng, DEPTH, WIDTH, 8) * np.sqrt(DEPTH),
            "down": array(rng, DEPTH, 8, WIDTH) * np.sqrt(DEPTH),
            "scale": 1 + 0.1 * jnp.asarray(rng.normal(size=(DEPTH, WIDTH))),
        }

    # The tree's order is not the network's.
    ends = {"in": array(rng, 5, WIDTH), "a_head": array(rng, WIDTH, CLASSES)}
    return {**{name: stack() for name in stack_names}, **ends}


def order_of(stack, *, reverse=False):
    each = range(DEPTH)[::-1] if reverse else range(DEPTH)
    return [f"{stack}/{i}/{part}" for i in each for part in ("up", "down")]


def case(loss, *middle, names=("blocks",)):
    order = ("in", *(middle or order_of("blocks")), "a_head")
    return Case(parameters(*names), loss, batches(np.random.default_rng(9), 5), order)


def model(body=block, wrap=lambda loss: loss, **options):
    """One scan, its collected outputs in loss and aux."""

    def loss(p, batch):
        x, seen = jax.lax.scan(body, batch["x"] @ p["in"], p["blocks"], **options)
        loss, aux = cross_entropy(x @ p["a_head"], batch["y"])
        return loss + 0.1 * seen["size"].mean(), {**aux, **seen}

    return wrap(loss)


def plain():
    return case(model())


def remat():
    return case(model(jax.checkpoint(block)))


def remat_whole():
    """The whole loss is a checkpoint, and each block another."""
    return case(model(jax.checkpoint(block), jax.checkpoint))


def backward():
    return case(model(reverse=True), *order_of("blocks", reverse=True))


def unrolled():
    return case(model(unroll=3))


def jitted():
    return case(model(jax.jit(block), lambda loss: jax.jit(jax.jit(loss))))


def keys():
    """Other arrays are scanned over too: a key for each block's dropout."""

    def body(x, scanned):
        p, key, i = scanned
        y, seen = block(x, p)
        keep = jax.random.bernoulli(key, 0.8, y.shape)
        return jnp.where(keep, y, x) + 0.01 * i, seen

    def loss(p, batch):
        each = (p["blocks"], jax.random.split(batch["key"], DEPTH), jnp.arange(DEPTH))
        x, _ = jax.lax.scan(body, batch["x"] @ p["in"], each)
        return cross_entropy(x @ p["a_head"], batch["y"])

    return case(loss)


def cast():
    """Weights cast and scaled before the scan, and a weight decay over all of them."""

    def loss(p, batch):
        p = jax.tree.map(lambda w: jax.lax.reduce_precision(w, 11, 40), p)
        decay = 1e-2 * sum(jnp.sum(w**2) for w in jax.tree.leaves(p))
        halved = jax.tree.map(lambda w: w * 0.5, p["blocks"])
        x, _ = jax.lax.scan(block, batch["x"] @ p["in"], halved)
        loss, aux = cross_entropy(x @ p["a_head"], batch["y"])
        return loss + decay, aux

    return case(loss)


def two():
    """Two scans; the second runs back over what the first collected."""

    def down(x, p):
        x, _ = block(x, p)
        return x, x

    def up(x, scanned):
        p, skip = scanned
        return block(x + 0.3 * skip, p)

    def loss(p, batch):
        x, skips = jax.lax.scan(down, batch["x"] @ p["in"], p["blocks"])
        x, _ = jax.lax.scan(up, x, (p["after_blocks"], skips), reverse=True)
        return cross_entropy(x @ p["a_head"], batch["y"])

    middle = [*order_of("blocks"), *order_of("after_blocks", reverse=True)]
    return case(loss, *middle, names=("blocks", "after_blocks"))


def shared():
    """Each block ends with a matrix of all, and with what went into the first."""

    def loss(p, batch):
        start = batch["x"] @ p["in"]

        def body(x, own):
            x, seen = block(x, own)
            return x + 0.3 * jnp.tanh(x @ p["each"]) + 0.1 * start, seen

        x, seen = jax.lax.scan(body, start, p["blocks"])
        loss, aux = cross_entropy(x @ p["a_head"], batch["y"])
        return loss, {**aux, **seen}

    middle = order_of("blocks")
    found = case(loss, *middle[:2], "each", *middle[2:])
    square = array(np.random.default_rng(10), WIDTH, WIDTH)
    return found._replace(params={**found.params, "each": square})


def whole():
    """Each block reads a row of `up`, and then all of it, so that the first meets every row."""

    def loss(p, batch):
        def body(x, own):
            x, seen = block(x, own)
            return x + 0.1 * jnp.tanh(x @ p["blocks"]["up"].mean(0)) @ own["down"], seen

        x, _ = jax.lax.scan(body, batch["x"] @ p["in"], p["blocks"])
        return cross_entropy(x @ p["a_head"], batch["y"])

    up, down = order_of("blocks")[::2], order_of("blocks")[1::2]
    return case(loss, up[0], down[0], *up[1:], *down[1:])


def used_otherwise():
    """No scan: a loop, and all slices at once."""

    def loss(p, batch):
        x = batch["x"] @ p["in"]
        for i in range(DEPTH):
            x, _ = block(x, jax.tree.map(lambda w, i=i: w[i], p["blocks"]))
        x = x + 0.1 * jnp.einsum("bi,nij->bj", x, p["blocks"]["up"] @ p["blocks"]["down"])
        return cross_entropy(x @ p["a_head"], batch["y"])

    return case(loss)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.Dense(8, param_dtype=float)(nn.LayerNorm(param_dtype=float)(x))
        h = nn.Dropout(0.2, deterministic=False)(nn.tanh(h))
        return x + nn.Dense(WIDTH, param_dtype=float)(h), jnp.mean(h**2)


class Linen(nn.Module):
    remat: bool

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        scan = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=DEPTH,
        )
        x = nn.Dense(WIDTH, param_dtype=float, name="in")(x)
        x, sizes = scan(name="blocks")(x, None)
        return nn.Dense(CLASSES, param_dtype=float, name="a_head")(x), sizes


def linen(remat=False):
    net = Linen(remat)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = net.init(rngs, jnp.ones((1, 5)))["params"]

    def loss(p, batch):
        logits, sizes = net.apply({"params": p}, batch["x"], rngs={"dropout": batch["key"]})
        loss, aux = cross_entropy(logits, batch["y"])
        return loss + 0.1 * sizes.mean(), aux

    middle = [f"blocks/{i}/{part}/kernel" for i in range(DEPTH) for part in ("Dense_0", "Dense_1")]
    order = ("in/kernel", *middle, "a_head/kernel")
    return Case(params, loss, batches(np.random.default_rng(9), 5), order)


def linen_remat():
    return linen(remat=True)


MODELS = {
    f.__name__: f
    for f in (
        plain,
        remat,
        remat_whole,
        backward,
        unrolled,
        jitted,
        keys,
        cast,
        two,
        shared,
        whole,
        used_otherwise,
        linen,
        linen_remat,
    )
}


@functools.cache
def build(name):
    """The case of a name; to be called in double precision."""
    return MODELS[name]()
