"""The loop of fine-tuning, the same for every method."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import lsam_jax as lsam
from lsam_jax.experiments.finetune.methods import FinetuneMethod, Prices
from lsam_jax.experiments.finetune.transformer import Transformer

POINTS = 8
"""How often a run looks at the held-out text."""


class State(NamedTuple):
    """What a step changes.

    Attributes:
        params: The parameters.
        sam: The method's state.
        optimizer: The base optimizer's.
    """

    params: Any
    sam: lsam.SamState
    optimizer: Any


Step = Callable[[State, Any], tuple[State, jax.Array]]


class FinetuneRun(NamedTuple):
    """What came of one method with one seed.

    Attributes:
        state: The last.
        steps: After how many steps the loss was looked at; 0 is the first.
        cost: The counted cost until then, in plain gradients.
        validation_loss: In nats per byte, at each of `steps`.
        perturbed: Share of the parameters that a step perturbed, mean over the run.
    """

    state: State
    steps: list[int]
    cost: list[float]
    validation_loss: list[float]
    perturbed: float


def start(method: FinetuneMethod, params: Any, draws: int = 0) -> State:
    """The state before the first step.

    Args:
        method: The method.
        params: The parameters.
        draws: How many steps' draws to leave out: a compiled method draws the same again and
            again, as a function of the step count.
    """
    sam = method.transformation.init(params)
    sam = sam._replace(count=sam.count + draws)
    return State(params, sam, method.optimizer.init(params))


def build_step(model: Transformer, method: FinetuneMethod) -> Step:
    """One compiled step of training: ``(state, windows)`` to the new state and the loss."""
    value_and_grad = lsam.value_and_grad(model.loss, method.transformation)

    @jax.jit
    def step(state: State, windows: jax.Array) -> tuple[State, jax.Array]:
        loss, grads, sam = value_and_grad(state.params, state.sam, windows)
        updates, optimizer = method.optimizer.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), sam, optimizer), loss

    return step


def fit(
    step: Step,
    state: State,
    drawn: Iterable[np.ndarray],
    steps: int,
    evaluate: Callable[[Any], float],
    prices: Prices,
    bar: Any = None,
) -> FinetuneRun:
    """Trains from a state on.

    Args:
        step: See `build_step`.
        state: The first.
        drawn: The batches.
        steps: How many.
        evaluate: The held-out loss of parameters.
        prices: What the steps cost.
        bar: Moved with each step, if there is one.
    """
    moments = {round(steps * i / POINTS) for i in range(1, POINTS + 1)}
    seen, costs, losses = [0], [0.0], [evaluate(state.params)]
    spent, perturbed = 0.0, []
    for number, windows in enumerate(itertools.islice(drawn, steps), start=1):
        state, _ = step(state, windows)
        selected = np.asarray(state.sam.selected)
        spent += prices.cost(selected)
        perturbed.append(prices.perturbed(selected))
        if bar is not None:
            bar.update()
        if number in moments:
            seen.append(number)
            costs.append(spent)
            losses.append(evaluate(state.params))
    return FinetuneRun(state, seen, costs, losses, float(np.mean(perturbed)))


class Stepper:
    """Goes on with a run, one step for each call.

    Args:
        step: See `build_step`.
        state: The first.
        drawn: The batches, without end.
    """

    def __init__(self, step: Step, state: State, drawn: Iterator[np.ndarray]):
        self._step, self._state, self._drawn = step, state, drawn

    def __call__(self) -> State:
        """The next step; the state after it."""
        self._state, _ = self._step(self._state, next(self._drawn))
        return self._state
