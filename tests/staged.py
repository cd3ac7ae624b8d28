"""Networks written as stages, so that a test can cut them by hand and count each part."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Staged(NamedTuple):
    """A network of one layer per stage.

    `stages` maps a name to a function `(params[name], x) -> x`, from input to output; `loss` is
    what follows the last. The layer of stage s is "s/w".
    """

    params: dict
    stages: dict
    loss: Any  # (output, labels) -> scalar
    batch: tuple  # input, labels

    def layers(self):
        return [f"{name}/w" for name in self.stages]

    def from_stage(self, start):
        """The loss as a function of the parameters from a stage on and of what goes into it."""
        names = list(self.stages)
        names = names[names.index(start) :]

        def suffix(params, x, labels):
            for name in names:
                x = self.stages[name](params[name], x)
            return self.loss(x, labels)

        return suffix

    def before(self, start, params, x):
        """What goes into a stage."""
        for name in self.stages:
            if name == start:
                return x
            x = self.stages[name](params[name], x)
        raise KeyError(start)

    def whole(self, params, batch):
        return self.from_stage(next(iter(self.stages)))(params, *batch)


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1).mean()


def weight(rng, *shape):
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)


def convolutional():
    """A residual network with BatchNorm; a stage passes on (activation, what the shortcut adds)."""
    rng, width = np.random.default_rng(0), 16
    shapes = {
        "stem": (3, 3, 3, width),
        "block0_a": (3, 3, width, width),
        "block0_b": (3, 3, width, width),
        "down": (3, 3, width, 2 * width),
        "block1_a": (3, 3, 2 * width, 2 * width),
        "block1_b": (3, 3, 2 * width, 2 * width),
    }
    params = {n: {"w": weight(rng, *s), "scale": jnp.ones(s[-1])} for n, s in shapes.items()}
    params["a_head"] = {"w": weight(rng, 2 * width, 10)}

    def conv(stride=1, adds=False, keeps=False):
        def stage(p, xs):
            x, kept = xs
            numbers = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(
                x, p["w"], (stride, stride), "SAME", dimension_numbers=numbers
            )
            y = y - y.mean((0, 1, 2))
            y = p["scale"] * y * jax.lax.rsqrt((y**2).mean((0, 1, 2)) + 1e-5)
            return jax.nn.relu(y + kept if adds else y), (x if keeps else None)

        return stage

    stages = {
        "stem": conv(),
        "block0_a": conv(keeps=True),
        "block0_b": conv(adds=True),
        "down": conv(stride=2),
        "block1_a": conv(keeps=True),
        "block1_b": conv(adds=True),
        "a_head": lambda p, xs: xs[0].mean((1, 2)) @ p["w"],
    }
    x, y = rng.normal(size=(8, 16, 16, 3)), rng.integers(0, 10, 8)
    return Staged(
        params, stages, cross_entropy, ((jnp.asarray(x, jnp.float32), None), jnp.asarray(y))
    )


def dense(depth=6, width=128, batch=64):
    """Residual dense layers with LayerNorm."""
    rng = np.random.default_rng(1)
    names = [f"layer{depth - i}" for i in range(depth)]
    params = {n: {"w": weight(rng, width, width), "scale": jnp.ones(width)} for n in names}
    params["a_head"] = {"w": weight(rng, width, 16)}

    def layer(p, x):
        y = x - x.mean(-1, keepdims=True)
        y = p["scale"] * y * jax.lax.rsqrt((y**2).mean(-1, keepdims=True) + 1e-5)
        return x + jax.nn.relu(y @ p["w"])

    stages = {**dict.fromkeys(names, layer), "a_head": lambda p, x: x @ p["w"]}
    x, y = rng.normal(size=(batch, width)), rng.integers(0, 16, batch)
    return Staged(params, stages, cross_entropy, (jnp.asarray(x, jnp.float32), jnp.asarray(y)))


NETWORKS = {"convolutional": convolutional, "dense": dense}
