"""A network, and the ways to take one step of it on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lsam_jax as lsam

AXIS = "batch"
MAPPED = ("pmap", "checked", "unchecked")
LR = 0.1


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 5), "b": (5, 5), "c": (5, 2)}
    return {
        name: {"w": jnp.asarray(rng.normal(size=s)), "b": jnp.asarray(rng.normal(size=s[1:]) / 9)}
        for name, s in shapes.items()
    }


def batch(count, size=16):
    rng = np.random.default_rng(count)
    return jnp.asarray(rng.normal(size=(size, 3))), jnp.asarray(rng.normal(size=(size, 2)))


def loss(params, x, y):
    """Mean squared error, and the outputs."""
    for name in ("a", "b"):
        x = jnp.tanh(x @ params[name]["w"] + params[name]["b"])
    out = x @ params["c"]["w"] + params["c"]["b"]
    return jnp.mean((out - y) ** 2), out


def mesh(devices, axes=(AXIS,), shape=None):
    return Mesh(np.array(jax.devices()[:devices]).reshape(shape or devices), axes)


def single(tx, loss=loss):
    """The step on one device: parameters, state and batch to all that a step gives."""
    value_and_grad = lsam.value_and_grad(loss, tx, has_aux=True)

    def step(params, state, *batch):
        (value, aux), grads, state = value_and_grad(params, state, *batch)
        return aux, (value, grads, state, jax.tree.map(lambda w, g: w - LR * g, params, grads))

    return step


def sharded(tx, devices, loss=loss):
    """Plain jit, the batch sharded."""
    rows, same = (NamedSharding(mesh(devices), spec) for spec in (P(AXIS), P()))
    step = jax.jit(single(tx, loss))

    def run(params, state, *batch):
        return step(*jax.device_put((params, state), same), *jax.device_put(batch, rows))

    return run


def mapped(kind, step, devices, arguments=2):
    """The step of one device on several, by `pmap` or `shard_map`; aux is each device's own."""
    if kind == "pmap":
        along = (None, None, *[0] * arguments)
        over = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=along,
            out_axes=(0, None),
            devices=jax.devices()[:devices],
        )

        def run(params, state, *batch):
            aux, rest = over(params, state, *(x.reshape(devices, -1, *x.shape[1:]) for x in batch))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), aux), rest

        return run
    return jax.jit(
        jax.shard_map(
            step,
            mesh=mesh(devices),
            in_specs=(P(), P(), *[P(AXIS)] * arguments),
            out_specs=(P(AXIS), P()),
            check_vma=kind == "checked",
        )
    )


def train(step, tx, steps=10, batch=batch):
    """Yields what each step gives."""
    params = parameters()
    state = tx.init(params)
    for count in range(steps):
        aux, (value, grads, state, params) = step(params, state, *batch(count))
        yield aux, value, grads, state, params


@functools.cache
def on_one(name, make):
    """The steps of a method on one device."""
    tx = make()
    return list(train(jax.jit(single(tx)), tx))
