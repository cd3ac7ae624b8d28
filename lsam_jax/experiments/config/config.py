"""What a run is made of: one frozen, hashable, JSON-able dataclass."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import optax

import lsam_jax as lsam
from lsam_jax.arguments import check_count, check_number
from lsam_jax.experiments.config.methods import FORMAT, METHODS, complete, in_todays_names

Options = Mapping[str, Any] | tuple[tuple[str, Any], ...]
DTYPES, OPTIMIZERS = ("float32", "bfloat16"), ("sgd", "adamw")
COUNTS = ("images", "validation_images", "image_size", "epochs", "passes", "accumulate", "width")
LEAST = {**dict.fromkeys(COUNTS, 1), "batch_size": 2, "crop": 0}
SEEDS = 2**32
"""So many there are: of a larger one JAX makes the key of its last 32 bits."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run: all that decides its result, and nothing else.

    The learning rate falls by `decay` at each point of `decay_at`. The defaults are those of the
    layer-wise SAM paper's CIFAR-10 recipe.

    Args:
        method: One of `methods.METHODS`.
        options: Of the method: arguments of its function in `lsam_jax`, by name, as a mapping or as
            pairs. What is not given is filled in from `methods.METHODS`; they are kept as sorted
            pairs.
        data: Name of the data set, see `datasets.load`.
        images: How many of the training images are used, the first of the data set's order; None
            for all.
        validation_images: How many of the validation images, likewise.
        image_size: Height and width that all images are scaled to; None leaves them as they are.
        label_noise: The share of the training labels that is drawn anew, uniformly over all classes
            (the old one included), once for the run, by its seed; see
            `label_noise.drawn_anew`. Validation labels stay clean.
        augment: Whether training images are augmented, where the data set has a way to.
        crop: By how many pixels that moves them at most: 0 mirrors them alone, None is 4.
        model: Name of the model, see `registry.ARCHITECTURES`.
        width: Channels of the model's first stage; None for the model's own.
        dtype: Of the computation, "float32" or "bfloat16". Parameters, gradients, their norms
            and the perturbation are float32 either way.
        random_init: Whether a model whose backbone should be pretrained starts without.
        seed: Of the initial weights, the order of the batches, noisy labels, augmentation and
            dropout. What a method itself draws (random layers, masks, probes) is not of it, as one
            program serves all seeds: see the method's own `seed`, an option that is 0 unless
            `options` has it.
        epochs: How often the run is evaluated and saved.
        passes: Over the training images in each epoch: more than one where there are few of them,
            so that evaluation does not take longer than training.
        batch_size: Images in a batch; the last, partial batch of a pass is left out.
        accumulate: In how many parts, one after the other, the loss of a batch is computed.
        optimizer: "sgd", with momentum (not Nesterov), or "adamw".
        learning_rate: At the start.
        decay: What the learning rate is multiplied by.
        decay_at: When, as shares of the run.
        momentum: Of SGD; AdamW has Optax's own decays.
        weight_decay: Coefficient on the weights, added to the gradient before momentum; AdamW's is
            its own.
        clip_norm: What the norm of the direction of descent is clipped to; None for no clipping.
        label_smoothing: Of the training loss; the validation loss is not smoothed.

    Raises:
        ValueError: When a value makes no sense. What depends on the model (`k` above the
            number of layers) is found when the program is built, before anything is trained.
    """

    method: str = "layerwise_sam"
    options: Options = ()
    data: str = "digits"
    images: int | None = None
    validation_images: int | None = None
    image_size: int | None = None
    label_noise: float = 0.0
    augment: bool = True
    crop: int | None = None
    model: str = "resnet8"
    width: int | None = None
    dtype: str = "float32"
    random_init: bool = False
    seed: int = 0
    epochs: int = 20
    passes: int = 1
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    decay: float = 0.1
    decay_at: tuple[float, ...] = (2 / 3, 13 / 15)
    momentum: float = 0.9
    weight_decay: float = 2e-4
    clip_norm: float | None = None
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        full = complete(self.method, dict(self.options))
        pairs = ((name, _with(tuple, x)) for name, x in sorted(full.items()))
        object.__setattr__(self, "options", tuple(pairs))
        for name, known in (("dtype", DTYPES), ("optimizer", OPTIMIZERS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
        for name, least in LEAST.items():
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), low=least)
        for name in ("learning_rate", "weight_decay", "decay"):
            check_number(name, getattr(self, name), low=0)
        for name in ("momentum", "label_smoothing"):
            check_number(name, getattr(self, name), low=0, below=1)
        check_seed("seed", self.seed)
        check_number("label_noise", self.label_noise, low=0, most=1)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        once = len(set(self.decay_at)) == len(self.decay_at)
        if not once or not all(0 < share < 1 for share in self.decay_at):
            raise ValueError(
                f"decay_at={self.decay_at} must hold shares of the run, in (0, 1), each once"
            )
        self._check_accumulate()

    def _check_accumulate(self) -> None:
        """Raises unless all batches that the method differentiates can be taken in parts."""
        if self.accumulate == 1:
            return
        if self.batch_size % self.accumulate or self.batch_size == self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} must divide batch_size={self.batch_size} into equal "
                "parts of at least two images"
            )
        if not METHODS[self.method].takes_mean:
            raise ValueError(
                f"accumulate={self.accumulate} is not for method={self.method!r}, which takes a "
                "batch whole; leave it out"
            )
        options = dict(self.options)
        share, m = options.get("ascent_batch"), options.get("m")
        climbed = {"m": m, "ascent_batch": None if share is None else share * self.batch_size}
        for name, images in climbed.items():
            if images is not None and (images % self.accumulate or images == self.accumulate):
                raise ValueError(
                    f"{name}={options[name]} climbs on {images:g} images, which "
                    f"accumulate={self.accumulate} does not divide into equal parts of at least "
                    "two; make accumulate smaller"
                )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Config":
        """What `to_json` made a dictionary of.

        Raises:
            ValueError: When it did not, or a later version did.
        """
        written = values.get("format", 1)
        if not isinstance(written, int) or written > FORMAT:
            raise ValueError(f"format={written!r} was written by a later version")
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in in_todays_names(values).items()
        }
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"not a configuration: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON gives it back."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        options = {name: _with(list, x) for name, x in dict(self.options).items()}
        return {name: _with(list, x) for name, x in values.items()} | {"options": options}


def _with(sequence: Callable[[Any], Any], value: Any) -> Any:
    """A value whose lists and tuples are such sequences, within one another too."""
    if type(value) in (list, tuple):  # and not a part of a method, which is a tuple by its type
        return sequence(_with(sequence, x) for x in value)
    return value


def check_seed(name: str, seed: int) -> None:
    """Raises a ValueError unless `seed` is a whole number of which nothing is lost, see `SEEDS`."""
    check_count(name, seed, low=0)
    if seed >= SEEDS:
        raise ValueError(f"{name}={seed} must be below 2**32 = {SEEDS}")


def base_optimizer(
    config: Config, steps: int, freezes: bool = False
) -> optax.GradientTransformation:
    """SGD or AdamW, with a learning rate that falls in steps.

    Args:
        config: Of the run.
        steps: Its length.
        freezes: Whether an array whose gradient is 0 stays as it is, momentum and all.
    """
    falls = Counter(round(share * steps) for share in config.decay_at)  # some at one step, if short
    schedule = optax.piecewise_constant_schedule(
        config.learning_rate, {step: config.decay**times for step, times in falls.items()}
    )
    clip = () if config.clip_norm is None else (optax.clip_by_global_norm(config.clip_norm),)
    decay = optax.add_decayed_weights(config.weight_decay)
    if config.optimizer == "adamw":
        adamw = optax.adamw(schedule, weight_decay=config.weight_decay)
        return optax.chain(*clip, lsam.freeze_inactive(adamw) if freezes else adamw)
    if not freezes:
        return optax.chain(*clip, decay, optax.sgd(schedule, momentum=config.momentum))
    own = lsam.freeze_inactive(optax.chain(decay, optax.trace(config.momentum)))
    return optax.chain(*clip, own, optax.scale_by_learning_rate(schedule))
