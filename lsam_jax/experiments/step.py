"""One training step, the same for every method, and what else a run needs compiled.

Steps are separate calls, not a `lax.scan` over the epoch: XLA:CPU compiles the gradient of a
convolution inside a loop to scalar code, 50 to 100 times slower.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lsam_jax as lsam
from lsam_jax.experiments import data as datasets
from lsam_jax.experiments import models
from lsam_jax.experiments.config import Config
from lsam_jax.experiments.data import Dataset, Split
from lsam_jax.experiments.evaluation import evaluate, gradient_norms
from lsam_jax.experiments.gradients import Method, method
from lsam_jax.experiments.objective import TrainingLoss, initial_variables


class State(NamedTuple):
    """Everything that a step reads and writes.

    Attributes:
        step: i32[], steps taken.
        params: The network's parameters.
        batch_stats: Running statistics of batch normalisation, of clean passes only.
        optimizer: The base optimizer's state.
        sam: The method's state.
        key: From which every random draw of the run is derived.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimizer: Any
    sam: lsam.SamState
    key: jax.Array


class StepMetrics(NamedTuple):
    """What a step reports, as arrays that the host need not wait for.

    Attributes:
        loss: f32[], of the weights before the step.
        sharpness: f32[], perturbed minus clean loss.
    """

    loss: jax.Array
    sharpness: jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of a configuration, compiled at first use; its seed is free.

    Attributes:
        config: What it was built from.
        data: The data set.
        steps_per_epoch: Full batches in the training split.
        layers: Names of the kernels in network order.
        sizes: Number of parameters of every array, by path.
        method: How gradients are taken.
        init: Seed to a fresh state.
        step: ``(state, batch) -> (state, metrics)``; the old state is donated.
        evaluate: ``(params, batch_stats) -> (loss, accuracy)`` on the test split.
        probe: ``(params, batch_stats) -> (norm, {path: norm})`` of the training loss's gradient.
    """

    config: Config
    data: Dataset
    steps_per_epoch: int
    layers: tuple[str, ...]
    sizes: dict[str, int]
    method: Method
    init: Callable[[int], State]
    step: Callable[[State, Split], tuple[State, StepMetrics]]
    evaluate: Callable[[Any, Any], tuple[float, float]]
    probe: Callable[[Any, Any], tuple[float, dict[str, float]]]


def build(config: Config, data: Dataset | None = None) -> Program:
    """Makes the functions of a run; nothing is compiled or trained yet.

    Args:
        config: All but the seed is used.
        data: The data set; None loads the one that `config` names.

    Raises:
        ValueError: When the configuration does not fit the data or the model.
    """
    data = datasets.load(config.data) if data is None else data
    steps_per_epoch = len(data.train.labels) // config.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"batch_size={config.batch_size} is more than the {len(data.train.labels)} training "
            f"images of {data.name}; make it smaller"
        )
    options = {} if config.width is None else {"width": config.width}
    model = models.preset(config.model)(num_classes=data.num_classes, **options)
    gradient = method(config)
    optimizer = base_optimizer(config, steps_per_epoch)
    loss_fn = TrainingLoss(model, data.mean, data.std, config.label_smoothing, data.augment)
    value_and_grad = gradient.value_and_grad(loss_fn)

    @jax.jit
    def fresh(variables: Any, key: jax.Array) -> State:
        params = variables["params"]
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables["batch_stats"],
            optimizer=optimizer.init(params),
            sam=gradient.init(params),
            key=key,
        )

    def init(seed: int) -> State:
        weights, draws = jax.random.split(jax.random.key(seed))
        return fresh(initial_variables(model, data.train.images.shape[1:], weights), draws)

    def step(state: State, batch: Split) -> tuple[State, StepMetrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, batch_stats), grads, sam = value_and_grad(
            state.params, state.sam, state.batch_stats, batch, key
        )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        new = State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            optimizer=optimizer_state,
            sam=sam,
            key=state.key,
        )
        return new, StepMetrics(loss, sam.sharpness)

    variables = jax.eval_shape(
        partial(initial_variables, model, data.train.images.shape[1:]), jax.random.key(0)
    )
    params = variables["params"]
    jax.eval_shape(gradient.init, params)  # complains about what does not fit the model
    batch_stats = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables["batch_stats"])
    some = Split(*(part[: config.batch_size] for part in data.train))
    rows = lsam.inspect(loss_fn, params, batch_stats, some, jax.random.key(0), has_aux=True).layers
    paths = jax.tree_util.tree_leaves_with_path(params)
    sizes = {jax.tree_util.keystr(p, simple=True, separator="/"): x.size for p, x in paths}
    return Program(
        config=config,
        data=data,
        steps_per_epoch=steps_per_epoch,
        layers=tuple(row.name for row in rows),
        sizes=sizes,
        method=gradient,
        init=init,
        step=jax.jit(step, donate_argnums=0),
        evaluate=partial(evaluate, model, data),
        probe=partial(gradient_norms, loss_fn, data.train),
    )


def base_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with momentum, coupled weight decay and a learning rate that falls in steps."""
    steps = config.epochs * steps_per_epoch
    schedule = optax.piecewise_constant_schedule(
        config.learning_rate, {round(share * steps): config.decay for share in config.decay_at}
    )
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum),
    )
