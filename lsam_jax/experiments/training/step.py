"""One training step, the same for every method, and what else a run needs compiled.

Steps are separate calls, not a `lax.scan` over the epoch: XLA:CPU compiles the gradient of a
convolution inside a loop to scalar code, 50 to 100 times slower.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict

import lsam_jax as lsam
from lsam_jax.experiments.config import costs, objective
from lsam_jax.experiments.config.config import Config, base_optimizer
from lsam_jax.experiments.config.methods import ConfiguredMethod, method
from lsam_jax.experiments.config.objective import TrainingLoss
from lsam_jax.experiments.data import datasets, label_noise
from lsam_jax.experiments.data.batches import Batches
from lsam_jax.experiments.data.datasets import Dataset
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.distributed.devices import Layout, layout
from lsam_jax.experiments.files import PathLike
from lsam_jax.experiments.models import registry
from lsam_jax.experiments.training.evaluation import Probe, evaluate, probe
from lsam_jax.experiments.training.state import Record, State, StepMetrics


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The functions of a configuration, compiled at first use; its seed is free.

    Attributes:
        config: What it was built from.
        data: The data set, limited as the configuration says, with clean labels.
        layout: On which devices.
        architecture: What knows which parameters are trained.
        loss_fn: What is trained.
        method: How gradients are taken.
        inspection: The method's layers, in network order, and what perturbing them costs.
        layers: Names of the trained kernels in network order.
        sizes: Number of parameters of every trained array, by path.
        frozen: Number of parameters that are not trained.
        pretrained: Those parameters, where they were read; None to draw them.
    """

    config: Config
    data: Dataset
    layout: Layout
    architecture: registry.Architecture
    loss_fn: TrainingLoss
    method: ConfiguredMethod
    inspection: lsam.Inspection
    layers: tuple[str, ...]
    sizes: dict[str, int]
    frozen: int
    pretrained: dict[str, Any] | None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training images, times the passes over them."""
        return _steps_per_epoch(self.config, self.data)

    def train(self, seed: int) -> Split:
        """The training images with the labels that a run of this seed is given."""
        return label_noise.given(self.data, self.config.label_noise, seed)

    def batches(self, seed: int) -> Batches:
        """The training batches of a run, by step; in several processes, the rows of this one."""
        return Batches(self.train(seed), self.config.batch_size, seed, self.layout.shard)

    def init(self, seed: int) -> State:
        """A fresh state."""
        weights_key, draws = jax.random.split(jax.random.key(seed))
        new = self._drawn(weights_key)
        trained, _ = self.architecture.split(new["params"])
        return self._fresh(trained, new.get("batch_stats", {}), draws)

    def step(self, state: State, batch: Split) -> tuple[State, StepMetrics]:
        """The next state, of this process's rows of a batch; the old one is donated."""
        return self.compiled(state, self._backbone, batch)

    def evaluate(self, split: Split, state: State) -> tuple[float, float]:
        """Loss and accuracy on images, see `evaluation.evaluate`."""
        everything = objective.variables(state.params, state.batch_stats, self._backbone)
        return evaluate(self.loss_fn, split, everything, self.layout)

    def fitted(self, state: State, seed: int) -> float:
        """Share of the labels that `train` gives which are predicted for the images as they are."""
        return self.evaluate(self.train(seed), state)[1]

    def probe(self, state: State, seed: int) -> Probe:
        """The training loss's gradient, see `evaluation.probe`."""
        loss_fn = dataclasses.replace(self.loss_fn, accumulate=1)
        given = state.params, state.batch_stats, self._backbone
        return probe(loss_fn, self.train(seed), self.data.augment, given, self.layout)

    @cached_property
    def compiled(self) -> Callable[..., tuple[State, StepMetrics]]:
        """``(state, frozen, batch) -> (state, metrics)`` on the devices of the layout."""
        return self.layout.compile(self._step)

    def _step(self, state: State, frozen: Any, batch: Split) -> tuple[State, StepMetrics]:
        key = jax.random.fold_in(state.key, state.step)
        batch, key = objective.augmented(self.data.augment, batch, key)
        (loss, aux), grads, sam = self.method.value_and_grad(self.loss_fn)(
            state.params, state.sam, state.batch_stats, frozen, batch, key
        )
        updates, optimizer = self._optimizer.update(grads, state.optimizer, state.params)
        entries = Record(loss, aux.accuracy, sam.sharpness, sam.rho, sam.rise, sam.selected)
        now = state.step % self.steps_per_epoch
        new = State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=aux.batch_stats,
            optimizer=optimizer,
            sam=sam,
            key=state.key,
            record=jax.tree.map(lambda all, one: all.at[now].set(one), state.record, entries),
        )
        return new, StepMetrics(loss, aux.accuracy)

    def _drawn(self, key: jax.Array) -> Any:
        """The variables of a new network."""
        shape = self.data.train.images.shape[1:]
        return objective.initial_variables(self.loss_fn.model, shape, key)

    @cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        steps = self.config.epochs * self.steps_per_epoch
        return base_optimizer(self.config, steps, self.method.family.freezes)

    @cached_property
    def _fresh(self) -> Callable[..., State]:
        return jax.jit(self._start)

    def _start(self, params: Any, batch_stats: Any, key: jax.Array) -> State:
        sam, steps = self.method.init(params), self.steps_per_epoch
        numbers = {name: jnp.zeros(steps, jnp.float32) for name in Record._fields[:-1]}
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            optimizer=self._optimizer.init(params),
            sam=sam,
            key=key,
            record=Record(**numbers, selected=jnp.zeros((steps, *sam.selected.shape), bool)),
        )

    @cached_property
    def _backbone(self) -> Any:
        """The parameters that are not trained."""
        if self.pretrained is not None or not self.frozen:
            return self.layout.everywhere(self.pretrained or {})
        with jax.ensure_compile_time_eval():  # kept, so it must not be a tracer
            drawn = self._drawn(jax.random.key(0))
            return self.layout.everywhere(self.architecture.split(drawn["params"])[1])


def build(
    config: Config,
    data: Dataset | None = None,
    *,
    data_dir: PathLike | None = None,
    weights: PathLike | None = None,
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
    if data.name != config.data:
        raise ValueError(f"data is {data.name}, but data={config.data!r} is configured: load that")
    limits = config.images, config.validation_images, config.image_size
    data = datasets.limited(data, *limits, augment=config.augment, crop=config.crop)
    steps = config.epochs * _steps_per_epoch(config, data)
    loss_fn, key = _loss(config, architecture, data), jax.random.key(0)
    differentiated = method(config.method, dict(config.options), steps)
    shape = data.train.images.shape[1:]
    shapes = jax.eval_shape(partial(objective.initial_variables, loss_fn.model, shape), key)
    params, frozen = architecture.split(shapes["params"])
    jax.eval_shape(differentiated.init, params)  # complains about what does not fit the model
    batch = Split(*(part[: config.batch_size] for part in data.train))
    arguments = (loss_fn, params, shapes.get("batch_stats", {}), frozen, batch, key)
    inspection = kernels = costs.inspect(differentiated.tx, *arguments)
    if differentiated.layers != "kernel":
        kernels = lsam.inspect(*arguments, has_aux=True)
    return Program(
        config,
        data,
        placed,
        architecture,
        loss_fn,
        differentiated,
        inspection,
        layers=tuple(row.name for row in kernels.layers),
        sizes={path: x.size for path, x in flatten_dict(params, sep="/").items()},
        frozen=sum(x.size for x in jax.tree.leaves(frozen)),
        pretrained=None if weights is None else architecture.read(weights, frozen),
    )


def _loss(config: Config, architecture: registry.Architecture, data: Dataset) -> TrainingLoss:
    options: dict[str, Any] = {} if config.width is None else {"width": config.width}
    dtype = jnp.dtype(config.dtype).type
    model = architecture(num_classes=data.num_classes, dtype=dtype, **options)
    preprocess = architecture.preprocess or data.preprocess
    return TrainingLoss(model, preprocess, config.label_smoothing, config.accumulate)


def _steps_per_epoch(config: Config, data: Dataset) -> int:
    count = len(data.train.labels)
    if count < config.batch_size:
        raise ValueError(
            f"batch_size={config.batch_size} is more than the {count} training images of "
            f"{data.name}; make it smaller"
        )
    return count // config.batch_size * config.passes
