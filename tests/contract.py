"""What the contract of all methods is tested with: a small network, and how each is made."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import lsam_jax as lsam
from lsam_jax.experiments.config.methods import METHODS as TABLE

NAMES = [name for name, row in TABLE.items() if row.make is getattr(lsam, name, None)]
"""The methods of the library; the table has plain SGD and combinations too."""


def parameters(dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": {"w": (3, 4), "b": (4,)}, "norm": {"scale": (4,)}, "z": {"w": (4, 2)}}
    return {
        module: {name: jnp.asarray(rng.normal(size=s), dtype) for name, s in arrays.items()}
        for module, arrays in shapes.items()
    }


def batch(seed=0, size=4):
    rng = np.random.default_rng(100 + seed)
    return jnp.asarray(rng.normal(size=(size, 3))), jnp.asarray(rng.normal(size=(size, 2)))


def outputs(p, x, y):
    x = x.astype(p["a"]["w"].dtype)
    return jnp.tanh(x @ p["a"]["w"] + p["a"]["b"]) * p["norm"]["scale"] @ p["z"]["w"]


def losses(p, x, y):
    wide = jnp.promote_types(p["a"]["w"].dtype, jnp.float32)
    return jnp.sum((outputs(p, x, y).astype(wide) - y.astype(wide)) ** 2, 1)


def loss(p, x, y):
    return jnp.mean(losses(p, x, y))


LOSSES = {
    "plain": loss,
    "split": lsam.split_loss(
        outputs, lambda out, x, y: jnp.mean(jnp.sum((out.astype(y.dtype) - y) ** 2, 1))
    ),
    "per_sample": lsam.per_sample(losses, argnums=(1, 2)),
}


class Method(NamedTuple):
    """How a method is made: `make(rho=..., **options)`."""

    make: Any
    options: dict
    loss: str = "plain"
    grad_fn: bool = True
    static: tuple = ()  # what inject_hyperparams must be told to leave alone

    def __call__(self, rho=0.1):
        return self.make(rho=rho, **self.options)

    def injected(self, rho=0.1):
        return optax.inject_hyperparams(self.make, static_args=self.static)(rho=rho, **self.options)


LAYERWISE = {"k": 1, "selection": "high", "layers": "kernel"}

METHODS = {
    **{name: Method(getattr(lsam, name), {}) for name in NAMES},
    "layerwise_sam": Method(lsam.layerwise_sam, {"k": 1, "alpha": 0.8}),
    "sparse_sam": Method(lsam.sparse_sam, {}, static=("sparsity",)),
    "sparse_sam_dynamic": Method(
        lsam.sparse_sam, {"dynamic": True, "every": 2}, static=("sparsity",)
    ),
    "functional_sam": Method(lsam.functional_sam, {}, loss="split", grad_fn=False),
    "look_sam": Method(lsam.look_sam, {"every": 2}),
    "layerwise_look_sam": Method(lsam.look_sam, {"every": 2, **LAYERWISE}),
    "esam": Method(lsam.esam, {}, loss="per_sample", grad_fn=False, static=("gamma",)),
    "esam_weights": Method(lsam.esam, {"gamma": 1.0, "weights": True}, static=("gamma",)),
    "adazo_sam": Method(lsam.adazo_sam, {}, grad_fn=False, static=("probes",)),
    "gam": Method(lsam.gam, {}, grad_fn=False),
    "zsharp": Method(lsam.zsharp, {"share": 0.3}),
    "sl_sam": Method(lsam.sl_sam, {"active": 0.5}),
}

BASES = {
    "sgd": lambda: optax.sgd(0.05),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "adamw": lambda: optax.adamw(0.01),
    "lion": lambda: optax.lion(0.01),
}
