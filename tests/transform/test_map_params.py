"""`optax.tree.map_params`: which arrays of a state are like the parameters."""

import contract
import jax
import jax.numpy as jnp
import optax
import pytest
from refusals import refused
from training import assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

METHODS = contract.METHODS
OTHERS = {
    "stale": lambda: lsam.with_parts(lsam.sam(), ascent=lsam.stale()),
    "stale and fresh": lambda: lsam.with_parts(lsam.sam(), ascent=lsam.stale(fresh="z/w")),
    "named": lambda: lsam.layerwise_sam(None, 0.1, selection=["z/w"]),
    "rise": lambda: lsam.sam(lsam.rise(0.3)),
    "budget": lambda: lsam.layerwise_sam(1, 0.1, selection=lsam.budget(0.5)),
    "stacked": lambda: lsam.sam(layers=lsam.stacked("a/w")),
    "per_layer": lambda: lsam.sam(lsam.per_layer({"z/w": 0.1}, default=0.2), layers="kernel"),
}
ARRAYS = 4  # of the parameters, two of them kernels
LIKE_THEM = {
    "momentum_sam": ARRAYS,
    "look_sam": ARRAYS,
    "layerwise_look_sam": 2,
    "sparse_sam": ARRAYS,
    "vasso": ARRAYS,
    "stale": ARRAYS,
    "sam": 0,
    "rise": 0,
}


@pytest.mark.parametrize("name", [*METHODS, *OTHERS])
def test_every_state_can_be_mapped(name):
    tx = {**METHODS, **OTHERS}[name]()
    params = contract.parameters()
    optimizer = optax.chain(tx, optax.adam(0.1))
    state, seen = optimizer.init(params), []

    def mapped(x):
        seen.append(x)
        return x

    assert_same(optax.tree.map_params(optimizer, mapped, state), state, 0)
    of_sam = len(seen) - 2 * ARRAYS  # Adam has two moments
    assert of_sam == LIKE_THEM.get(name, of_sam)


def test_shardings_of_a_state_from_those_of_the_parameters():
    params, tx = contract.parameters(), lsam.vasso()
    specs = jax.tree.map(lambda x: f"like {x.shape}", params)
    found = optax.tree.map_params(
        tx, lambda x, spec: spec, tx.init(params), specs, transform_non_params=lambda x: "whole"
    )
    assert found.norms == found.count == "whole"
    assert [x for x in jax.tree.leaves(found) if x != "whole"] == jax.tree.leaves(specs)


@pytest.mark.parametrize("empty", [{}, (), {"a": {}}])
def test_parameters_without_arrays_are_refused_as_ever(empty):
    with refused(ValueError, "puts no parameter in a layer", "params is empty"):
        lsam.sam().init(empty)
    with refused(ValueError, "puts no parameter in a layer", "The paths are: b"):
        lsam.layerwise_sam(1, 0.1).init({"b": jnp.ones(3)})
