"""Whatever a network is made of, a step is the textbook's, to 1e-10 of every array.

A test that fails prints the seed and the blocks of its network, those inside others indented. To
see it again:

    pytest -m "" tests/engine/test_random_networks.py -k seed07
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import textbook
from textbook import named, unnamed
from training import SINGLE, assert_same, textbook_gradient

import lsam_jax as lsam

SEEDS, QUICK = range(44), (4, 5, 16, 18, 40)  # these hold every kind of block
ALPHA, RHOS = 0.8, (0.3, 0.02, 1.0, 0.0)
ENGINES = ({}, {"cuts": 1, "gate": False}, {"cuts": 3, "gate": True})
MANY = 1000  # more than there are layers


def row(seed):
    return pytest.param(seed, id=f"seed{seed:02}", marks=[pytest.mark.slow] * (seed not in QUICK))


@pytest.fixture(params=map(row, SEEDS))
def net(request, x64):
    found = random_networks.network(request.param)
    print(f"seed {request.param}\n{found.description}")
    return found


def apart(tree):
    """Stacks as lists of rows: the names of arrays are those of layers then."""
    return {n: list(np.asarray(x)) if "stack_" in n else x for n, x in tree.items()}


def gradient_at(net, params, data):
    """The textbook's: loss and aux, and a tree of arrays that are apart."""
    together = {n: jnp.stack(x) if isinstance(x, list) else x for n, x in params.items()}
    out, grads = textbook_gradient(net.loss)(together, data, net.key)
    return out, apart(grads)


def gradient_along(net, d, chosen, rho):
    """The gradient at rho along d in the chosen layers."""
    params, d, size = apart(net.params), named(d), textbook.norm(*(named(d)[n] for n in chosen))
    step = rho / size if size else 0
    moved = {n: w + step * d[n] * (n in chosen) for n, w in named(params).items()}
    return gradient_at(net, unnamed(moved, params), net.data)


def selections(net):
    """Each layer alone, all, none and some."""
    names, rng = lsam.layer_names(net.params, net.layers), np.random.default_rng(net.seed)
    some = [rng.permutation(names)[: rng.integers(1, len(names))] for _ in range(6)]
    return [{*map(str, chosen)} for chosen in ([[n] for n in names] + [names, []] + some)]


def forced_step(net, ascent=None, part=None, **options):
    """`(chosen, place of the radius, state) -> a step`, compiled once."""
    names = lsam.layer_names(net.params, net.layers)
    k, rho = lambda count: count % MANY, lambda count: jnp.asarray(RHOS)[count // MANY]
    tx = lsam.layerwise_sam(k, rho, layers=net.layers, **options)
    tx = tx if ascent is None else lsam.with_parts(tx, ascent=ascent)
    step = jax.jit(lsam.value_and_grad(net.loss, tx, has_aux=True, ascent_batch=part))

    def run(chosen, radius=0, state=None):
        state = (state or tx.init(net.params))._replace(
            count=jnp.asarray(len(chosen) + MANY * radius, jnp.int32),
            norms=jnp.asarray([name in chosen for name in names], jnp.float32),
        )
        out, grads, state = step(net.params, state, net.data, net.key)
        assert {name for name, is_in in zip(names, state.selected) if is_in} == chosen
        return out, apart(grads), state

    return run


def assert_textbook(net, got, chosen, rho, alpha, normalize):
    (out, grads, state), params = got, apart(net.params)
    method = chosen, rho, alpha, normalize, {name: name for name in named(params)}
    want = textbook.step(partial(gradient_at, net), params, net.data, *method)
    assert_same((out, grads), ((want.loss, want.aux), unnamed(want.direction, grads)))
    names = lsam.layer_names(net.params, net.layers)
    assert_same(state.norms, np.float32([want.norms[name] for name in names]))
    assert abs(state.sharpness - want.sharpness) <= SINGLE * abs(want.loss)


@pytest.mark.parametrize("normalize", [False, True])
def test_layers_chosen_by_norm(net, normalize):
    engine = ENGINES[(net.seed + normalize) % 3]
    step = forced_step(net, alpha=ALPHA, normalize=normalize, **engine)
    for n, chosen in enumerate(selections(net)):
        radius = n % len(RHOS)
        assert_textbook(net, step(chosen, radius), chosen, RHOS[radius], ALPHA, normalize)


def test_layers_known_before_compilation(net):
    chosen = selections(net)[-1]
    options = {"selection": sorted(chosen), "layers": net.layers, "normalize": True}
    tx = lsam.layerwise_sam(None, RHOS[0], ALPHA, **options)
    step = jax.jit(lsam.value_and_grad(net.loss, tx, has_aux=True))
    out, grads, state = step(net.params, tx.init(net.params), net.data, net.key)
    assert_textbook(net, (out, apart(grads), state), chosen, RHOS[0], ALPHA, True)


def test_ascent_on_a_part_of_the_batch(net):
    step = forced_step(net, part=1 / 2, normalize=True, **ENGINES[(net.seed + 2) % 3])
    half = {n: x[::2] for n, x in net.data.items()}
    (loss, _), d = gradient_at(net, apart(net.params), half)
    for chosen in selections(net):
        out, grads, state = step(chosen)
        want, h = gradient_along(net, d, chosen, RHOS[0])
        assert_same((out, grads), (want, h))
        sharpness = want[0] - loss if chosen else 0  # it is that of the last step that moved
        assert abs(state.sharpness - sharpness) <= SINGLE * abs(loss)


def test_stale_ascent(net):
    step = forced_step(net, ascent=lsam.stale(rest=1), normalize=True)
    state, d = None, apart(jax.tree.map(jnp.zeros_like, net.params))
    for chosen in selections(net):
        out, grads, state = step(chosen, state=state)
        want, d = gradient_along(net, d, chosen, RHOS[0])
        assert_same((out, grads), (want, d))


def test_every_kind_of_block_is_drawn(x64):
    drawn = {kind for n in QUICK for kind in random_networks.network(n).description.split()}
    assert drawn == {kind.__name__ for kind in random_networks.PLAIN + random_networks.NESTING}
