"""A cut in front of every layer, and every subset of the layers: each branch with each selection.

The selection is forced through the stored norms, and k is traced, so that one compilation serves
all subsets.
"""

import itertools

import jax
import jax.numpy as jnp
import pytest
import textbook
import zoo
from training import RHO, assert_same, textbook_gradient

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

ALPHA = 0.8


def subsets(order):
    return itertools.chain.from_iterable(
        itertools.combinations(order, k) for k in range(len(order) + 1)
    )


def forced_step(case, **options):
    """`chosen -> (loss, aux), grads, state` for a set of layers, compiled once."""
    names = lsam.layer_names(case.params)
    # The k layers of largest norm, k being the step count.
    tx = lsam.layerwise_sam(lambda count: count, RHO, ALPHA, **options)
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))

    def run(chosen):
        state = tx.init(case.params)._replace(
            count=jnp.asarray(len(chosen), jnp.int32),
            norms=jnp.asarray([n in chosen for n in names], jnp.float32),
        )
        out = step(case.params, state, case.batches[0])
        assert {n for n, s in zip(names, out[2].selected, strict=True) if s} == set(chosen)
        return out

    return run


def assert_exact(case, run, chosen, normalize):
    (loss, aux), grads, _ = run(chosen)
    gradient = textbook_gradient(case.loss)
    want = textbook.step(gradient, case.params, case.batches[0], chosen, RHO, ALPHA, normalize)
    assert_same((loss, aux), (want.loss, want.aux))
    assert_same(grads, textbook.unnamed(want.direction, grads))


SMALL = ["shared", "branches", "recurrent", "stacked", "decay_first", "entangled", "remat"]
CORE = ("recurrent", "entangled")  # on other versions of jax, test_exactness has all models


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=[pytest.mark.core] * (model in CORE)) for model in SMALL]
)
def test_every_cut_and_every_subset(model):
    case = zoo.build(model)
    run = forced_step(case, cuts=list(case.order), normalize=True)
    for chosen in subsets(case.order):
        assert_exact(case, run, set(chosen), normalize=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "every"), [("remat_blocks", 1), ("convolutions", 1), ("transformer", 3)]
)
def test_every_first_layer(model, every):
    """Each layer alone, and all from it on; with a cut at every layer, or at every third."""
    case = zoo.build(model)
    run = forced_step(case, cuts=list(case.order[1::every]))  # the first is added
    for i in range(len(case.order)):
        assert_exact(case, run, {case.order[i]}, normalize=False)
        assert_exact(case, run, set(case.order[i:]), normalize=False)


@pytest.mark.parametrize(
    ("cuts", "gate"),
    [
        (1, True), (1, False), (2, False), (100, False), (["join/w"], True),
        (["deep/0/w", "left/w"], False),
    ],
)  # fmt: skip
def test_cuts_and_gates_change_nothing(cuts, gate):
    case = zoo.build("branches")
    run = forced_step(case, cuts=cuts, gate=gate, normalize="layer")
    for chosen in subsets(case.order):
        assert_exact(case, run, set(chosen), normalize="layer")
