"""The same few steps of training with lsam_jax and with the textbook, side by side."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import textbook

import lsam_jax as lsam

LR, MOMENTUM, RHO = 0.1, 0.9, 0.1
EXACT = 1e-10
SINGLE = 2e-6  # the state keeps norms in float32


class Result(NamedTuple):
    """What a step of lsam_jax gives."""

    loss: Any
    aux: Any
    grads: Any
    params: Any
    state: Any


@functools.cache
def textbook_gradient(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def make_step(loss, tx):
    """A jitted step, `(params, state, momentum, batch) -> (Result, momentum)`."""
    value_and_grad = lsam.value_and_grad(loss, tx, has_aux=True)
    base = optax.sgd(LR, momentum=MOMENTUM)

    @jax.jit
    def step(params, state, momentum, batch):
        (value, aux), grads, state = value_and_grad(params, state, batch)
        updates, momentum = base.update(grads, momentum, params)
        return Result(value, aux, grads, optax.apply_updates(params, updates), state), momentum

    return step


def train(case, tx):
    """Yields a `Result` for each batch."""
    step = make_step(case.loss, tx)
    params, state = case.params, tx.init(case.params)
    momentum = optax.sgd(LR, momentum=MOMENTUM).init(params)
    for batch in case.batches:
        result, momentum = step(params, state, momentum, batch)
        params, state = result.params, result.state
        yield result


def assert_trains_like_textbook(
    case, tx, choose, alpha=1.0, normalize=False, layers="kernel", layer_of=None
):
    """Every number of every step; `choose(norms, reported)` gives the layers to perturb, from the
    textbook's norms and from the set that lsam_jax reports."""
    names = lsam.layer_names(case.params, layers)
    params, norms = case.params, dict.fromkeys(names, 0.0)
    descend, times = textbook.Momentum(LR, MOMENTUM), dict.fromkeys(names, 0)
    results = list(train(case, tx))
    assert len(results) >= 5
    for batch, got in zip(case.batches, results, strict=True):
        reported = {name for name, chosen in zip(names, got.state.selected, strict=True) if chosen}
        chosen = choose(norms, reported)
        assert reported == chosen
        want = textbook.step(
            textbook_gradient(case.loss), params, batch, chosen, RHO, alpha, normalize, layer_of
        )
        params, norms = descend(params, want.direction), want.norms
        times = {name: n + (name in chosen) for name, n in times.items()}
        assert_same(got.loss, want.loss)
        assert_same(got.aux, want.aux)
        assert_same(got.grads, textbook.unnamed(want.direction, got.grads))
        assert_same(got.params, params)
        assert_same(got.state.norms, np.float32([norms[name] for name in names]))
        assert np.array_equal(got.state.perturbations, list(times.values()))
        assert abs(got.state.sharpness - want.sharpness) <= SINGLE * abs(want.loss)
    assert int(got.state.count) == len(results)


def assert_same(got, want, tolerance=EXACT):
    """Equal structures and types, a small relative error of every array (SINGLE in float32)."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    got, want = textbook.named(got), textbook.named(want)
    assert {p: x.dtype for p, x in got.items()} == {p: x.dtype for p, x in want.items()}
    errors = {path: textbook.relative_error(got[path], want[path]) for path in want}
    allowed = {p: max(tolerance, SINGLE if x.dtype == np.float32 else 0) for p, x in got.items()}
    assert all(error <= allowed[path] for path, error in errors.items()), errors
