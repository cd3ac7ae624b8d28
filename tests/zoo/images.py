"""Convolutional networks: a Flax ResNet, and convolutions of every unusual kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.common import CLASSES, Case, array, batches, cross_entropy


class Block(nn.Module):
    """Post-activation, dropout between the convolutions, 1x1 shortcut where the shape changes."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        def norm(x):
            return nn.BatchNorm(use_running_average=False, momentum=0.9)(x)

        y = nn.Conv(self.width, (3, 3), self.stride, use_bias=False, name="conv1")(x)
        y = nn.Dropout(0.3, deterministic=False)(nn.relu(norm(y)))
        y = norm(nn.Conv(self.width, (3, 3), use_bias=False, name="conv2")(y))
        if x.shape != y.shape:
            x = norm(nn.Conv(self.width, (1, 1), self.stride, use_bias=False, name="shortcut")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=False, name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9)(x))
        x = Block(4, 1, name="block0")(x)
        x = Block(6, 2, name="block1")(x)
        return nn.Dense(CLASSES, name="a_head")(x.mean((1, 2)))


def resnet():
    rng = np.random.default_rng(7)
    data = batches(rng, 8, 8, 3)
    model = ResNet()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(model.init)(keys, data[0]["x"])
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)

    def loss(params, batch):
        logits, state = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            batch["x"],
            rngs={"dropout": batch["key"]},
            mutable=["batch_stats"],
        )
        loss, metrics = cross_entropy(logits, batch["y"])
        return loss, {**metrics, **state}

    convolutions = ("block0/conv1", "block0/conv2", "block1/conv1", "block1/conv2")
    order = ("stem", *convolutions, "block1/shortcut", "a_head")
    return Case(variables["params"], loss, data, tuple(f"{m}/kernel" for m in order))


def convolutions():
    """Depthwise with stride, grouped, dilated, transposed; in NCHW, kernels in OIHW."""
    rng = np.random.default_rng(8)
    params = {
        "stem": array(rng, 8, 3, 3, 3),
        "depthwise": array(rng, 8, 1, 3, 3),
        "grouped": array(rng, 8, 4, 3, 3),
        "dilated": array(rng, 4, 8, 3, 3),
        "back": array(rng, 6, 4, 3, 3),
        "bias": array(rng, 6),
        "a_head": array(rng, 6, CLASSES),
    }

    def conv(x, w, stride=1, groups=1, dilation=1, spread=1):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            [(1, 1), (2, 1)] if spread > 1 else "SAME",
            lhs_dilation=(spread, spread),
            rhs_dilation=(dilation, dilation),
            feature_group_count=groups,
        )

    def loss(p, batch):
        x = jnp.tanh(conv(batch["x"], p["stem"]))
        x = jnp.tanh(conv(x, p["depthwise"], stride=2, groups=8))
        x = jnp.tanh(conv(x, p["grouped"], groups=2))
        x = jnp.tanh(conv(x, p["dilated"], dilation=2))
        x = jnp.tanh(conv(x, p["back"], spread=2) + p["bias"][:, None, None])
        return cross_entropy(x.max((2, 3)) @ p["a_head"], batch["y"])

    order = ("stem", "depthwise", "grouped", "dilated", "back", "a_head")
    return Case(params, loss, batches(rng, 3, 8, 8), order)
