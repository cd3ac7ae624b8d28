"""One training step, the same for every method, and what else a run needs compiled.

Steps are separate calls, not a `lax.scan` over the epoch: XLA:CPU compiles the gradient of a
convolution inside a loop to scalar code, 50 to 100 times slower.
"""

import dataclasses
import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lsam_jax as lsam
from lsam_jax.experiments.config import costs
from lsam_jax.experiments.config.config import Config, base_optimizer
from lsam_jax.experiments.config.methods import ConfiguredMethod, method
from lsam_jax.experiments.config.objective import (
    Normalise,
    TrainingLoss,
    augmented,
    initial_variables,
)
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.data.batches import Batches
from lsam_jax.experiments.data.datasets import Dataset, Split
from lsam_jax.experiments.data.label_noise import given
from lsam_jax.experiments.distributed.devices import Layout, layout
from lsam_jax.experiments.models import registry
from lsam_jax.experiments.training.evaluation import Probe, evaluate, probe


class Record(NamedTuple):
    """What every step of an epoch reported; step i of an epoch writes entry i.

    Attributes:
        loss: f32[steps], see `History.train_loss`.
        accuracy: f32[steps], of the training batch, likewise.
        sharpness, rho, rise: f32[steps], see `lsam.SamState`.
        selected: bool[steps, L], the layers that the method perturbed.
    """

    loss: jax.Array
    accuracy: jax.Array
    sharpness: jax.Array
    rho: jax.Array
    rise: jax.Array
    selected: jax.Array


class State(NamedTuple):
    """Everything that a step reads and writes, and so everything that a run must keep.

    Attributes:
        step: i32[], steps taken; the position in the data and in every random sequence.
        params: The parameters that are trained.
        batch_stats: Running statistics of batch normalisation, of the passes that gave the loss.
        optimizer: The base optimizer's state.
        sam: The method's state.
        key: From which every random draw of the run is derived.
        record: Of the epoch under way.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimizer: Any
    sam: lsam.SamState
    key: jax.Array
    record: Record


class StepMetrics(NamedTuple):
    """What a step reports, as arrays that the host need not wait for.

    Attributes:
        loss: f32[], see `History.train_loss`.
        accuracy: f32[], of the training batch.
    """

    loss: jax.Array
    accuracy: jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of a configuration, compiled at first use; its seed is free.

    Attributes:
        config: What it was built from.
        data: The data set, limited as the configuration says, with clean labels.
        layout: On which devices.
        steps_per_epoch: Full batches in the training images, times the passes over them.
        layers: Names of the trained kernels in network order.
        sizes: Number of parameters of every trained array, by path.
        loss_fn: What is trained.
        method: How gradients are taken.
        inspection: The method's layers, in network order, and what perturbing them costs.
        frozen: Number of parameters that are not trained.
        train: Seed to the training images with the labels that a run is given.
        init: Seed to a fresh state.
        step: ``(state, batch) -> (state, metrics)`` with this process's rows of the batch; the old
            state is donated.
        evaluate: ``(params, batch_stats) -> (loss, accuracy)`` on the validation split.
        fitted: ``(params, batch_stats, seed) -> share`` of the training labels, as `train` gives
            them, that the network predicts for the images as they are.
        probe: ``(params, batch_stats, seed) -> Probe`` of the training loss's gradient.
    """

    config: Config
    data: Dataset
    layout: Layout
    steps_per_epoch: int
    layers: tuple[str, ...]
    sizes: dict[str, int]
    loss_fn: TrainingLoss
    method: ConfiguredMethod
    inspection: lsam.Inspection
    frozen: int
    train: Callable[[int], Split]
    init: Callable[[int], State]
    step: Callable[[State, Split], tuple[State, StepMetrics]]
    evaluate: Callable[[Any, Any], tuple[float, float]]
    fitted: Callable[[Any, Any, int], float]
    probe: Callable[[Any, Any, int], Probe]

    def batches(self, seed: int) -> Batches:
        """The training batches of a run, by step; in several processes, the rows of this one."""
        return Batches(self.train(seed), self.config.batch_size, seed, self.layout.shard)


def build(
    config: Config,
    data: Dataset | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    devices: int | None = None,
) -> Program:
    """Makes the functions of a run; nothing is compiled or trained yet.

    Args:
        config: All but the seed is used.
        data: The data set; None loads the one that `config` names.
        data_dir: Where TFDS keeps prepared data; None for its default.
        weights: The checkpoint of a pretrained backbone, for a model that has one.
        devices: On how many the batch is shared out, see `devices.layout`. The result is the same,
            but for rounding.

    Raises:
        ValueError: When the configuration does not fit the data, the model or the devices.
        FileNotFoundError: When the data set is not prepared, or `weights` is not there.
    """
    placed = layout(devices)
    if config.batch_size % placed.devices:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be shared out evenly to devices="
            f"{placed.devices}; make one a multiple of the other"
        )
    architecture = registry.preset(config.model)
    architecture.check_weights(config, weights)
    data = datasets.load(config.data, data_dir) if data is None else data
    data = datasets.limited(
        data, config.images, config.validation_images, config.image_size, augment=config.augment
    )
    steps_per_epoch = len(data.train.labels) // config.batch_size * config.passes
    if steps_per_epoch == 0:
        raise ValueError(
            f"batch_size={config.batch_size} is more than the {len(data.train.labels)} training "
            f"images of {data.name}; make it smaller"
        )
    options: dict[str, Any] = {} if config.width is None else {"width": config.width}
    model = architecture(
        num_classes=data.num_classes, dtype=jnp.dtype(config.dtype).type, **options
    )
    image_shape = data.train.images.shape[1:]
    preprocess = architecture.preprocess or Normalise(data.mean, data.std)
    loss_fn = TrainingLoss(model, preprocess, config.label_smoothing, config.accumulate)
    steps = config.epochs * steps_per_epoch
    gradient = method(config.method, dict(config.options), steps)
    optimizer = base_optimizer(config, steps, gradient.freezes)
    value_and_grad = gradient.value_and_grad(loss_fn)

    shapes = jax.eval_shape(partial(initial_variables, model, image_shape), jax.random.key(0))
    params, frozen = architecture.split(shapes["params"])
    batch_stats = shapes.get("batch_stats", {})
    sam = jax.eval_shape(gradient.init, params)  # complains about what does not fit the model
    some = Split(*(part[: config.batch_size] for part in data.train))
    arguments = (loss_fn, params, batch_stats, frozen, some, jax.random.key(0))
    inspection = costs.inspect(gradient.tx, *arguments)
    kernels = inspection
    if gradient.layers != "kernel":
        kernels = lsam.inspect(*arguments, has_aux=True)
    loaded = None if weights is None else architecture.read(weights, frozen)

    @cache
    def backbone() -> Any:
        if loaded is not None or not frozen:
            return placed.everywhere(loaded or {})
        with jax.ensure_compile_time_eval():  # kept, so it must not be a tracer
            drawn = initial_variables(model, image_shape, jax.random.key(0))["params"]
            return placed.everywhere(architecture.split(drawn)[1])

    @jax.jit
    def fresh(params: Any, batch_stats: Any, key: jax.Array) -> State:
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            optimizer=optimizer.init(params),
            sam=gradient.init(params),
            key=key,
            record=Record(
                **{name: jnp.zeros(steps_per_epoch, jnp.float32) for name in Record._fields[:-1]},
                selected=jnp.zeros((steps_per_epoch, *sam.selected.shape), bool),
            ),
        )

    def init(seed: int) -> State:
        weights_key, draws = jax.random.split(jax.random.key(seed))
        new = initial_variables(model, image_shape, weights_key)
        trained, _ = architecture.split(new["params"])
        return fresh(trained, new.get("batch_stats", {}), draws)

    def step(state: State, frozen: Any, batch: Split) -> tuple[State, StepMetrics]:
        batch, key = augmented(data.augment, batch, jax.random.fold_in(state.key, state.step))
        (loss, aux), grads, sam = value_and_grad(
            state.params, state.sam, state.batch_stats, frozen, batch, key
        )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        entries = Record(loss, aux.accuracy, sam.sharpness, sam.rho, sam.rise, sam.selected)
        now = state.step % steps_per_epoch
        new = State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=aux.batch_stats,
            optimizer=optimizer_state,
            sam=sam,
            key=state.key,
            record=jax.tree.map(lambda all, one: all.at[now].set(one), state.record, entries),
        )
        return new, StepMetrics(loss, aux.accuracy)

    compiled = placed.compile(step)
    train = partial(given, data, config.label_noise)
    probed = dataclasses.replace(loss_fn, accumulate=1)
    return Program(
        config=config,
        data=data,
        layout=placed,
        steps_per_epoch=steps_per_epoch,
        layers=tuple(row.name for row in kernels.layers),
        sizes={
            jax.tree_util.keystr(path, simple=True, separator="/"): x.size
            for path, x in jax.tree_util.tree_leaves_with_path(params)
        },
        loss_fn=loss_fn,
        method=gradient,
        inspection=inspection,
        frozen=sum(x.size for x in jax.tree.leaves(frozen)),
        train=train,
        init=init,
        step=lambda state, batch: compiled(state, backbone(), batch),
        evaluate=lambda params, batch_stats: evaluate(
            model, preprocess, data.validation, params, batch_stats, backbone(), placed
        ),
        fitted=lambda params, batch_stats, seed: evaluate(
            model, preprocess, train(seed), params, batch_stats, backbone(), placed
        )[1],
        probe=lambda params, batch_stats, seed: probe(
            probed, train(seed), data.augment, params, batch_stats, backbone(), placed
        ),
    )
