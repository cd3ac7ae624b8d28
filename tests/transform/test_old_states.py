"""States saved before methods had a memory, or the radius stood there: their fields come first."""

import copyreg
import io
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam

FIELDS = ("count", "norms", "selected", "perturbations", "sharpness")


class Old(NamedTuple):
    count: Any
    norms: Any
    selected: Any
    perturbations: Any
    sharpness: Any


def test_the_fields_are_a_prefix_and_the_rest_has_a_default():
    assert lsam.SamState._fields[: len(FIELDS)] == FIELDS == Old._fields
    params = {"w": jnp.ones((2, 2))}
    state = lsam.sam().init(params)
    old = Old(*state[: len(FIELDS)])
    assert jax.tree.structure(lsam.SamState(*old)) == jax.tree.structure(state)
    more = ("rho", "rise")  # the method remembers nothing
    assert len(jax.tree.leaves(state)) == len(FIELDS) + len(more)


def test_dictionaries_without_rho_and_rise_load():
    params = {"w": jnp.ones((2, 2))}
    state = lsam.momentum_sam().init(params)
    old = {name: x for name, x in state._asdict().items() if name not in ("rho", "rise")}
    memory = {name: x for name, x in state.memory._asdict().items() if jax.tree.leaves(x)}
    _, new = lsam.momentum_sam().update(
        params, {**old, "memory": memory}, params, grad_fn=lambda w: w
    )
    assert float(new.rho) > 0


def test_a_pickle_of_five_fields_loads():
    state = lsam.sam().init({"w": jnp.ones((2, 2))})
    five = tuple(map(np.asarray, state[: len(FIELDS)]))

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing):  # as the old class was written
            if isinstance(thing, lsam.SamState):
                return copyreg.__newobj__, (lsam.SamState, *five)
            return NotImplemented

    file = io.BytesIO()
    Pickler(file, 2).dump(state)
    again = pickle.loads(file.getvalue())
    assert jax.tree.structure(again) == jax.tree.structure(state)
    params = {"w": jnp.ones((2, 2))}
    direction, _ = lsam.sam().update(params, again, params, grad_fn=lambda w: w)
    assert np.isfinite(direction["w"]).all()
