"""A scan over layers is run in part, by loops: exact for whatever is selected, and no longer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scanned
import textbook
from counting import alone
from training import RHO, assert_same

import lsam_jax as lsam

ALPHA = 0.8
LAYERS = lsam.stacked("blocks")
MODELS = ("plain", "remat", "unrolled", "jitted", "cast", "two", "linen", "linen_remat")
QUICK = ("backward", "keys", "shared", "whole")


def forced_step(case, **options):
    """`chosen -> (loss, aux), grads, state` for a set of layers, compiled once."""
    names = lsam.layer_names(case.params, LAYERS)
    tx = lsam.layerwise_sam(lambda count: count, RHO, ALPHA, layers=LAYERS, **options)
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))

    def arguments(chosen):
        state = tx.init(case.params)._replace(
            count=jnp.asarray(len(chosen), jnp.int32),
            norms=jnp.asarray([n in chosen for n in names], jnp.float32),
        )
        return case.params, state, case.batches[0]

    return step, arguments


def loops(jaxpr):
    """The loops of a program, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from loops(getattr(inner, "jaxpr", inner))


def selections(order):
    """Each layer alone, all from each on, and pairs."""
    yield from ((name,) for name in order)
    yield from (order[i:] for i in range(len(order)))
    yield from itertools.combinations(order[::2], 2)
    yield ()


@pytest.mark.parametrize(
    ("model", "gate"),
    [
        *(pytest.param(model, True, marks=pytest.mark.core) for model in QUICK),
        *(pytest.param(model, True, marks=pytest.mark.slow) for model in MODELS),
        *(pytest.param(model, False, marks=pytest.mark.slow) for model in ("keys", "two")),
    ],
)
def test_exact_from_every_block_on(x64, model, gate):
    case = scanned.build(model)
    step, arguments = forced_step(case, normalize=True, gate=gate, cuts=3)
    # For each scan the walks back and the perturbed one forward; the clean one is a scan.
    there = list(loops(jax.make_jaxpr(step)(*arguments(case.order)).jaxpr))
    assert len(there) == (6 if model == "two" else 3)
    gradient = scanned.textbook_gradient(case.loss)
    params = scanned.slices(case.params)
    for chosen in selections(case.order):
        (loss, aux), grads, state = step(*arguments(chosen))
        want = textbook.step(gradient, params, case.batches[0], set(chosen), RHO, ALPHA, True)
        assert int(state.selected.sum()) == len(chosen)
        assert_same((loss, aux), (want.loss, want.aux))
        like = scanned.slices(grads)
        assert_same(like, textbook.unnamed(want.direction, like))


def test_iterations_in_front_of_the_first_selected_are_not_run(x64):
    """Of the three blocks: all from the first on, two, none if only what stands behind moves.

    The descent goes back through all.
    """
    case = scanned.build("plain")
    step, arguments = forced_step(case, cuts=3)
    program = jax.make_jaxpr(step.__wrapped__)
    begun = []
    for chosen in (case.order[1:2], case.order[3:4], case.order[-1:]):
        args = arguments(chosen)
        bounds = [float(x) for x in trip_counts(program(*args), jax.tree.leaves(args))]
        begun.append(sorted(bounds))
    assert begun == [[3, 3, 3], [2, 2, 3], [0, 0, 3]]


def some_kernels(network):
    """Of three blocks: not the first, and of the second `down` alone."""
    without = ("blocks/0", "blocks/1/up")
    return np.array([not name.startswith(without) for name in network.names])


@pytest.mark.core
@pytest.mark.parametrize(
    ("normalize", "candidates"), [(False, None), ("layer", None), (True, some_kernels)]
)
def test_exact_with_steps_of_single_layers(x64, normalize, candidates):
    """Rows of one array, each moved by a number of its own; and of which some cannot move."""
    case = scanned.build("cast")
    selector = candidates and lsam.Selector(candidates, score=lambda norms, count: norms)
    step, arguments = forced_step(case, normalize=normalize, selection=selector or "high", cuts=3)
    gradient = scanned.textbook_gradient(case.loss)
    params = scanned.slices(case.params)
    sets = [case.order[-2:], case.order[-3:-2], (case.order[0], *case.order[-2:])]
    for chosen in sets if candidates else [*sets, case.order[2:4], case.order[1:5:3]]:
        _, grads, state = step(*arguments(chosen))
        want = textbook.step(gradient, params, case.batches[0], set(chosen), RHO, ALPHA, normalize)
        assert int(state.selected.sum()) == len(chosen)
        like = scanned.slices(grads)
        assert_same(like, textbook.unnamed(want.direction, like))


def trip_counts(closed, args):
    """How often each loop of a program runs, the program being run equation by equation."""
    found = []
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(v):
        return env[v] if not hasattr(v, "val") else v.val

    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        if eqn.primitive.name == "while":
            first = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
            begin, end = np.asarray(values[first]), np.asarray(values[first + 1])
            found.append(end - begin)
        env.update(zip(eqn.outvars, alone(jaxpr, eqn)(*values), strict=True))
    return found
