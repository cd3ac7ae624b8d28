"""The loss that a finished run is diagnosed by, and what a stored result was made of."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lsam_jax.arguments import check_count, check_layer_names, check_number
from lsam_jax.experiments.config.config import check_seed
from lsam_jax.experiments.config.objective import TrainingLoss, variables
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.training.finished_run import Finished

BATCH = 256
REACH = 20
"""How far a layer's landscape goes; also how many steps there are to the reach of a whole one."""
LAYERS = 6


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured of runs.

    Args:
        images: How many training images the loss is of, the first.
        seed: Of directions and probes.
        rho: The radius of the SAM ball.
        probes: Of the trace.
        layers: Whose landscapes; empty for `LAYERS` of them, evenly from input to output.
        step: Between two points of a landscape; 1 is the paper's.

    Raises:
        ValueError: When a value makes no sense.
    """

    images: int = 1024
    seed: int = 0
    rho: float = 0.05
    probes: int = 16
    layers: tuple[str, ...] = ()
    step: int = 1

    def __post_init__(self) -> None:
        for name, least in {"images": 1, "probes": 2}.items():
            check_count(f"--{name}", getattr(self, name), low=least)
        check_seed("--seed", self.seed)
        check_number("--rho", self.rho, above=0)
        divisors = [n for n in range(1, REACH + 1) if REACH % n == 0]
        if self.step not in divisors:
            raise ValueError(
                f"--step={self.step} must be one of {', '.join(map(str, divisors))}, so that the "
                "trained network is one of the points"
            )

    @property
    def steps(self) -> list[float]:
        """Along each direction of a layer: from -20 to 19 at most."""
        return [float(step) for step in range(-REACH, REACH, self.step)]

    @property
    def model_steps(self) -> list[float]:
        """Along each direction of the whole network: from -1 to 1, half as many and 0."""
        return [float(x) for x in np.linspace(-1, 1, 2 * max(1, REACH // 2 // self.step) + 1)]

    def chosen(self, layers: Sequence[str]) -> list[str]:
        """Those of a network's layers whose landscapes are looked at, in network order.

        Raises:
            ValueError: When one does not exist.
        """
        if not self.layers:
            count = min(LAYERS, len(layers))
            return [layers[round(i)] for i in np.linspace(0, len(layers) - 1, count)]
        check_layer_names("--layers", self.layers, layers)
        return [name for name in layers if name in self.layers]


@dataclasses.dataclass(frozen=True)
class EvaluationLoss:
    """What is trained, but with running statistics, without dropout and on images as they are.

    Called with ``(params, batch, batch_stats)``. Equal losses share what is compiled.

    Args:
        training: The loss that is trained; its label smoothing stays.
    """

    training: TrainingLoss

    def __call__(self, params: Any, batch: Split, batch_stats: Any) -> jax.Array:
        """The mean over a batch."""
        images = self.training.preprocess(batch.images)
        logits = self.training.model.apply(variables(params, batch_stats, {}), images)
        return self.training.judged((logits, {}), batch)[0].mean()

    def describe(self) -> str:
        """What it is, in words."""
        return (
            f"cross-entropy with label smoothing {self.training.smoothing} on training images "
            "without augmentation, their labels as they were trained on; batch normalisation with "
            "its running statistics"
        )


class Measured:
    """A run, and its loss on its first training images.

    Args:
        run: Which.
        settings: What is measured.
        name: What the run is called in a log.

    Attributes:
        run: Which.
        name: Its name.
        settings: What is measured.
        loss_fn: Its loss.
        arguments: What measures of the loss are called with.
        batches: The images, in batches of one size.
        images: How many there are in all batches.
        key: Of all that is random.
    """

    def __init__(self, run: Finished, settings: Settings, name: str):
        self.run, self.settings, self.name = run, settings, name
        self.loss_fn = EvaluationLoss(run.program.loss_fn)
        self.arguments = (self.loss_fn, run.state.params, run.state.batch_stats)
        self.batches = equal_batches(run.train, settings.images)
        self.images = sum(len(batch.labels) for batch in self.batches)
        self.key = jax.random.key(settings.seed)

    def made_of(self) -> dict[str, Any]:
        """What decides every result."""
        step = int(self.run.state.step)
        return {"images": self.images, "seed": self.settings.seed, "run_step": step}

    def progress(self, what: str, of: Sequence[Any]) -> Iterable[Any]:
        """The sequence, with a bar in a terminal while it is gone through, or a line in a log."""
        if not sys.stderr.isatty():
            print(f"{self.name}: {what}", file=sys.stderr, flush=True)
            return of
        return tqdm(of, desc=what, file=sys.stderr, leave=False, dynamic_ncols=True)


def equal_batches(split: Split, images: int) -> list[Split]:
    """The first images of a split in batches of one size, at most `BATCH`.

    As many as there are batches, less one, may be left out.
    """
    count = min(images, len(split.labels))
    number = -(-count // BATCH)
    size = count // number
    return [
        Split(*(part[start : start + size] for part in split))
        for start in range(0, number * size, size)
    ]


def check_same(file: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises unless a stored result was made of what is wanted.

    Raises:
        ValueError: When it was not.
    """
    for name, value in wanted.items():
        if there.get(name) != value:
            raise ValueError(
                f"{str(file)!r} is there, but was made with {name}={there.get(name)}, not {value}; "
                "--again replaces it"
            )
