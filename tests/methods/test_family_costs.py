"""Every method costs what its definition says, within 2 %, in operations that XLA counts."""

import pytest
from counting import flops
from family_costs import TABLE, counted, network, units

import lsam_jax as lsam

WITHIN = 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_cost_is_that_of_the_definition(name):
    got, want = counted(name)
    for found, expected in zip(got, want, strict=True):
        assert found == pytest.approx(expected, abs=WITHIN * max(1, expected))


@pytest.mark.parametrize("method", [lsam.ae_sam, lsam.look_sam])
def test_the_first_gradient_is_outside_of_the_conditional(method):
    """So the dearest branch counts what SAM counts, and not a gradient more."""
    net, cost = network(), []
    for tx in (method(0.1), lsam.sam(0.1)):
        fun = lsam.value_and_grad(net.whole, tx)
        cost.append(flops(fun, net.params, tx.init(net.params), net.batch))
    assert cost[0] == pytest.approx(cost[1], rel=WITHIN)


def test_the_units_differ():
    """So that the tests above can fail."""
    u = units()
    assert 0.3 < u.forward < 0.4
    assert 0.6 < u.scales < 0.8
    assert u.late < 0.5 < u.drawn + u.before < 1
