"""SL-SAM's bandit within a budget: a method nobody has published, made of parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from textbook import named, norm, relative_error
from training import EXACT, RHO, textbook_gradient

import lsam_jax as lsam

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.core]

BUDGET, ACTIVE = 0.8, 0.5


def affordable(case):
    """The kernels from which on all can be perturbed at an extra cost within the budget."""
    found = lsam.inspect(case.loss, case.params, case.batches[0], cuts=list(case.order))
    order = [layer.name for layer in found.layers]
    return {n for i, n in enumerate(order) if found.cost(order[i:]) - 1 <= BUDGET}


MAKES = {
    "sl_sam": lambda: lsam.sl_sam(RHO, ACTIVE, rate=0.1, budget=BUDGET, layers="kernel"),
    "everything descends": lambda: lsam.layerwise_sam(
        None, RHO, selection=lsam.budget(BUDGET, lsam.bandit(ACTIVE, 0.1)), normalize=True
    ),
}


@pytest.mark.parametrize("how", MAKES)
def test_budgeted_bandit(how):
    case, tx = zoo.build("branches"), MAKES[how]()
    within, names = affordable(case), lsam.layer_names(case.params)
    assert 1 < len(within) < len(names)
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))
    gradient = textbook_gradient(case.loss)
    params, state, drawn = case.params, tx.init(case.params), set()
    for count in range(10):
        batch = case.batches[count % len(case.batches)]
        _, direction, state = step(params, state, batch)
        chosen = {n for n, on in zip(names, state.selected, strict=True) if on}
        assert chosen
        assert chosen <= within
        drawn |= chosen

        w, g = named(params), named(gradient(params, batch)[1])
        size = norm(*[g[n] for n in chosen])
        there = [jnp.asarray(x + (RHO * g[n] / size if n in chosen else 0)) for n, x in w.items()]
        h = named(gradient(jax.tree.unflatten(jax.tree.structure(params), there), batch)[1])
        for n, got in named(direction).items():
            descends = how != "sl_sam" or n in chosen
            assert relative_error(got, h[n] if descends else np.zeros_like(h[n])) <= EXACT

        p = dict(zip(names, np.asarray(state.memory.selection.probability), strict=True))
        assert sum(p[n] for n in within) == pytest.approx(ACTIVE * len(within), rel=1e-5)
        assert all(p[n] == ACTIVE for n in names if n not in within)
        params = jax.tree.map(lambda x, d: x - 0.1 * d, params, direction)
    assert drawn == within
