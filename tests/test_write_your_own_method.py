"""The guide on methods of one's own: its code runs, and does what it says."""

import pathlib
import re

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from textbook import named, norm, relative_error, unnamed
from training import EXACT

import lsam_jax as lsam
from lsam_jax import components

pytestmark = pytest.mark.usefixtures("x64")

GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "write-your-own-method.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
GRADIENT = jax.jit(jax.grad(contract.loss))
KERNELS = ("a/w", "z/w")


@pytest.fixture
def guide():
    """What its blocks define, run one after the other."""
    names = {"__name__": "__main__"}
    for block in BLOCKS:
        exec(compile(block, GUIDE.name, "exec"), names)
    return names


def gradient(w, batch):
    return named(GRADIENT(unnamed(w, contract.parameters()), *batch))


def test_the_method_is_the_one_described(guide):
    tx = guide["sign_sam"](0.05, k=1, selection="high", layers="kernel")
    params, state = contract.parameters(), tx.init(contract.parameters())
    step = jax.jit(lsam.value_and_grad(contract.loss, tx))
    norms = dict.fromkeys(KERNELS, 0.0)
    for count in range(6):
        batch, w = contract.batch(count), named(params)
        want = g = gradient(w, batch)
        if count % 2 == 0:
            chosen = max(KERNELS, key=lambda path: (norms[path], KERNELS.index(path)))
            h = gradient({**w, chosen: w[chosen] + 0.05 * np.sign(g[chosen])}, batch)
            want = {**h, chosen: np.where(g[chosen] * h[chosen] > 0, h[chosen], 0)}
            norms = {path: norm(h[path]) for path in KERNELS}
        else:
            norms = {path: norm(g[path]) for path in KERNELS}
        _, direction, state = step(params, state, *batch)
        got = named(direction)
        assert all(relative_error(got[path], want[path]) <= EXACT for path in w), count
        params = jax.tree.map(lambda x, d: x - 0.1 * d, params, direction)


def test_the_part_that_remembers(guide):
    tx = guide["smooth"]
    params, state = contract.parameters(), tx.init(contract.parameters())
    step, d = jax.jit(lsam.value_and_grad(contract.loss, tx)), None
    for count in range(5):
        batch, w = contract.batch(count), named(params)
        g = gradient(w, batch)
        d = {p: 0.6 * (0 if d is None else d[p]) + 0.4 * g[p] for p in w}
        size = norm(*d.values())
        want = gradient({p: w[p] + 0.05 * d[p] / size for p in w}, batch)
        _, direction, state = step(params, state, *batch)
        got = named(direction)
        assert all(relative_error(got[path], want[path]) <= EXACT for path in w), count
        params = jax.tree.map(lambda x, d: x - 0.1 * d, params, direction)


def test_the_first_block_is_twenty_lines():
    body = BLOCKS[0].split("\n\n\n", 1)[1]
    assert len([line for line in body.splitlines() if line]) <= 20


@pytest.mark.parametrize("part", ["ascent", "perturbation", "descent", "combination", "when"])
def test_a_part_of_another_kind(part):
    with refused(TypeError, part, "Selector"):
        components.method(rho=0.1, **{part: lsam.high()})


def test_what_is_public_is_there():
    assert sorted(components.__all__) == list(components.__all__)
    assert all(hasattr(components, name) for name in components.__all__)
    assert jnp.isfinite(components.ratio(1.0, jnp.zeros(())))
