"""Methods that decide at run time, on a convolutional network.

XLA:CPU is slow for convolutions inside conditionals unless they are in canonical order, into which
all are brought: that must be exact, and must have happened.
"""

import re

import family
import jax
import numpy as np
import pytest
import zoo
from counting import conditionals, for_cpu
from family_steps import of_network, steps_of
from jax.extend.core.primitives import conv_general_dilated_p
from jax.flatten_util import ravel_pytree
from textbook import relative_error
from training import EXACT

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

CANONICAL = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def convolutions(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive is conv_general_dilated_p:
            yield tuple(map(tuple, eqn.params["dimension_numbers"]))
        for value in for_cpu(eqn):
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from convolutions(getattr(inner, "jaxpr", inner))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "look_sam",
        "layerwise_look_sam",
        pytest.param("ae_sam", marks=pytest.mark.core),
        pytest.param("sl_sam_kernels", marks=pytest.mark.core),
    ],
)
def test_exact_and_in_canonical_order(name):
    problem, params, value, batches = of_network("convolutions")
    row = family.TABLE[name]
    tx = row.make()
    step = steps_of(tx, value, "value_and_grad")
    w, unravel = ravel_pytree(params)
    w, state = np.asarray(w), tx.init(params)
    layers = zoo.build("convolutions").order if "sl" not in name else problem.order

    def selected():
        return {n for n, on in zip(problem.order, state.selected, strict=True) if on}

    want = row.want(problem._replace(selected=selected), layers)
    for count in range(4):
        problem.loss.count = problem.gradient.count = count
        _, direction, state = step(unravel(w), state, batches[count])
        expected = want(w, count)
        assert relative_error(np.asarray(ravel_pytree(direction)[0]), expected) <= EXACT
        w = w - 0.1 * expected

    jaxpr = jax.make_jaxpr(step)(params, state, batches[0]).jaxpr
    found = [
        order
        for conditional in conditionals(jaxpr)
        for branch in conditional.params["branches"]
        for order in convolutions(branch.jaxpr)
    ]
    assert len(found) > 3
    assert set(found) == {CANONICAL}


@pytest.mark.core
def test_the_order_is_that_of_the_platform_it_is_lowered_for():
    """A host may compile for another machine than its own."""
    case = zoo.build("convolutions")
    tx = lsam.layerwise_sam(2, 0.1)
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))
    traced = step.trace(case.params, tx.init(case.params), case.batches[0])
    others = {}
    for platform in ("cpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        orders = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text)
        others[platform] = sum(x != "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" for x in orders)
    assert others["cpu"] == 0 < others["cuda"]
