"""A small residual network in NNX, with BatchNorm and dropout, written so that it can be cut."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

CLASSES = 3


class Block(nnx.Module):
    def __init__(self, width, out, stride, rngs):
        conv = {"use_bias": False, "rngs": rngs}
        self.conv1 = nnx.Conv(width, out, (3, 3), stride, **conv)
        self.bn1 = nnx.BatchNorm(out, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.conv2 = nnx.Conv(out, out, (3, 3), **conv)
        self.bn2 = nnx.BatchNorm(out, momentum=0.9, rngs=rngs)
        self.shortcut = nnx.Conv(width, out, (1, 1), stride, **conv)

    def __call__(self, x):
        y = self.dropout(nnx.relu(self.bn1(self.conv1(x))))
        return nnx.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nnx.Module):
    def __init__(self, rngs, width=8):
        self.stem = nnx.Conv(3, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.b_block = Block(width, width, 1, rngs)
        self.block2 = Block(width, 2 * width, 2, rngs)
        self.a_head = nnx.Linear(2 * width, CLASSES, rngs=rngs)

    def before_block2(self, x):
        return self.b_block(nnx.relu(self.bn(self.stem(x))))

    def from_block2(self, x):
        return self.a_head(self.block2(x).mean((1, 2)))

    def __call__(self, x):
        return self.from_block2(self.before_block2(x))


ORDER = (
    "stem/kernel",
    "b_block/conv1/kernel",
    "b_block/conv2/kernel",
    "b_block/shortcut/kernel",
    "block2/conv1/kernel",
    "block2/conv2/kernel",
    "block2/shortcut/kernel",
    "a_head/kernel",
)


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def loss_fn(model, x, y):
    logits = model(x)
    return cross_entropy(logits, y), logits


@functools.cache
def initial():
    return nnx.split(nnx.jit(lambda: ResNet(nnx.Rngs(0, dropout=1)))())


def resnet(dtype=jnp.float32):
    """A new one, always the same."""

    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    graphdef, state = initial()
    return nnx.merge(graphdef, jax.tree.map(cast, state), copy=True)


def batches(count, size=8, batch=4, dtype=jnp.float32):
    for i in range(count):
        kx, ky = jax.random.split(jax.random.key(i))
        x = jax.random.normal(kx, (batch, size, size, 3)).astype(dtype)
        yield x, jax.random.randint(ky, (batch,), 0, CLASSES)
