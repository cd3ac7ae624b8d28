"""Equinox: an MLP-mixer, whose inexact arrays are the parameters. No helper is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_at_floor, assert_exact
from training import RHO
from zoo.common import CLASSES, Case, batches, cross_entropy

import lsam_jax as lsam

eqx = pytest.importorskip("equinox")

PATCHES, WIDTH = 4, 6


class MixerBlock(eqx.Module):
    patch_mixer: eqx.nn.MLP
    channel_mixer: eqx.nn.MLP
    norm: eqx.nn.LayerNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key, width):
        keys = jax.random.split(key)
        self.patch_mixer = eqx.nn.MLP(PATCHES, PATCHES, 2 * PATCHES, 1, key=keys[0])
        self.channel_mixer = eqx.nn.MLP(width, width, 2 * width, 1, key=keys[1])
        self.norm = eqx.nn.LayerNorm(width)
        self.dropout = eqx.nn.Dropout(0.2)

    def __call__(self, x, key):  # [patches, width]
        x = x + jax.vmap(self.patch_mixer, 1, 1)(jax.vmap(self.norm)(x))
        return x + self.dropout(jax.vmap(self.channel_mixer)(jax.vmap(self.norm)(x)), key=key)


class Mixer(eqx.Module):
    z_stem: eqx.nn.Linear
    blocks: list
    a_head: eqx.nn.Linear

    def __init__(self, key, width=WIDTH, depth=2):
        keys = jax.random.split(key, depth + 2)
        self.z_stem = eqx.nn.Linear(5, width, key=keys[0])
        self.blocks = [MixerBlock(k, width) for k in keys[2:]]
        self.a_head = eqx.nn.Linear(width, CLASSES, key=keys[1])

    def from_block(self, start, x, key):
        for block in self.blocks[start:]:
            x = block(x, key)
        return self.a_head(x.mean(0))

    def __call__(self, x, key):
        return self.from_block(0, jax.vmap(self.z_stem)(x), key)


MLP = ("layers/0/weight", "layers/1/weight")
BLOCK = [f"{mixer}/{name}" for mixer in ("patch_mixer", "channel_mixer") for name in MLP]
ORDER = ("z_stem/weight", *(f"blocks/{i}/{n}" for i in (0, 1) for n in BLOCK), "a_head/weight")


def loss_of(static):
    """What a user writes: the loss of what is differentiated, combined with the rest."""

    def loss_fn(params, batch):
        model = eqx.combine(params, static)
        keys = jax.random.split(batch["key"], len(batch["x"]))
        return cross_entropy(jax.vmap(model)(batch["x"], keys), batch["y"])

    return loss_fn


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_trains_like_the_textbook():
    params, static = eqx.partition(Mixer(jax.random.key(0)), eqx.is_inexact_array)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    data = batches(np.random.default_rng(0), PATCHES, 5)
    assert_exact(Case(params, loss_of(static), data, ORDER))


@pytest.mark.slow
def test_a_step_costs_its_floor():
    params, static = eqx.partition(Mixer(jax.random.key(0), width=32), eqx.is_inexact_array)
    data = batches(np.random.default_rng(0), PATCHES, 5)[0]
    batch = {**data, "x": data["x"].astype(jnp.float32)}

    def suffix(params, hidden, batch):
        model = eqx.combine(params, static)
        keys = jax.random.split(batch["key"], len(hidden))
        logits = jax.vmap(lambda x, key: model.from_block(1, x, key))(hidden, keys)
        return cross_entropy(logits, batch["y"])[0]

    assert_at_floor(
        lambda params, batch: loss_of(static)(params, batch)[0],
        suffix,
        params,
        ["blocks/1/patch_mixer/layers/0/weight", "a_head/weight"],
        jax.ShapeDtypeStruct((len(batch["x"]), PATCHES, 32), jnp.float32),
        batch,
    )


def test_a_whole_module_is_refused():
    """It holds functions: the error names what to keep out."""
    with pytest.raises(TypeError, match="must hold real floating arrays only"):
        lsam.sam(RHO).init(Mixer(jax.random.key(0)))
