"""Models that scan over stacked layers: each slice is a layer, and the scan is split at the cut."""

import jax
import numpy as np
import pytest
import scanned
import textbook
from training import LR, MOMENTUM, RHO, SINGLE, assert_same, train

import lsam_jax as lsam

LAYERS = lsam.stacked("blocks")
K = 2


def assert_trains_like_textbook(case, tx, choose, alpha, normalize, layers=LAYERS, layer_of=None):
    names = lsam.layer_names(case.params, layers)
    gradient = scanned.textbook_gradient(case.loss)
    params, norms = scanned.slices(case.params), dict.fromkeys(names, 0.0)
    descend = textbook.Momentum(LR, MOMENTUM)
    for batch, got in zip(case.batches, train(case, tx), strict=True):
        reported = {name for name, chosen in zip(names, got.state.selected, strict=True) if chosen}
        chosen = choose(norms)
        assert reported == chosen
        want = textbook.step(gradient, params, batch, chosen, RHO, alpha, normalize, layer_of)
        like = scanned.slices(got.grads)
        params, norms = descend(params, want.direction), want.norms
        assert_same(got.loss, want.loss)
        assert_same(got.aux, want.aux)
        assert_same(like, textbook.unnamed(want.direction, like))
        assert_same(scanned.slices(got.params), params)
        assert_same(got.state.norms, np.float32([norms[name] for name in names]))
        assert abs(got.state.sharpness - want.sharpness) <= SINGLE * abs(want.loss)


@pytest.mark.core
@pytest.mark.parametrize("model", scanned.MODELS)
@pytest.mark.parametrize("selection", ["high", "fixed"])
def test_equals_the_textbook(x64, model, selection):
    case = scanned.build(model)
    fixed = {case.order[n] for n in (3, -4, -1)}  # the second kernel of a block, and not the last
    if selection == "high":
        tx = lsam.layerwise_sam(K, RHO, 0.8, layers=LAYERS, normalize=True)
    else:
        tx = lsam.layerwise_sam(
            None, RHO, 0.8, layers=LAYERS, selection=list(fixed), normalize=True
        )

    def choose(norms):
        return textbook.choose(norms, K, case.order) if selection == "high" else fixed

    assert_trains_like_textbook(case, tx, choose, 0.8, True)
