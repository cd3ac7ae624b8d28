"""A cut in front of every layer, and every subset of the layers, forced to be selected."""

import pytest
import zoo
from forced import assert_exact, forced_step, subsets

pytestmark = pytest.mark.usefixtures("x64")

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
