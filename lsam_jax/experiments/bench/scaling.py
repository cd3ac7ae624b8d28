"""How the cost of a step grows with the depth, the width, the batch, and the number of layers.

Layer-wise SAM is measured at both ends: with the k layers nearest the output forced, which is the
cheapest choice that there is, and with the k nearest the input, the dearest. A run lies between.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.bench import baselines, catalog, cost_model, timed, workload
from lsam_jax.experiments.bench.baselines import forced
from lsam_jax.experiments.bench.catalog import RADIUS, SGD, TEXTBOOK
from lsam_jax.experiments.bench.timed import CompiledStep, Timed
from lsam_jax.experiments.bench.workload import Size, Workload
from lsam_jax.experiments.models import registry

LAST, FIRST = "layer-wise SAM, last layers", "layer-wise SAM, first layers"
BLOCK, OTHERS = 6, 2
"""A network with n blocks in each of three stages has 6 n + 2 layers on its longest path."""

DEFAULTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "depth": (8, 14, 20, 32),
        "width": (8, 16, 32),
        "batch": (32, 64, 128, 256),
        "k": (1, 2, 4, 8, 16),
    }
)
"""What is measured of each."""


@dataclasses.dataclass(frozen=True)
class Settings(Size):
    """What to measure; see `workload.Size` for what stays as it is.

    Args:
        along: One of `DEFAULTS`: depth (6 n + 2 layers with n blocks in each of three stages),
            width (channels of the first stage), batch, or k (perturbed layers).
        values: Of it; empty for `DEFAULTS`.
        model: Name of a residual network, see `registry.ARCHITECTURES`.
        k: Perturbed layers.
        rounds: Interleaved steps of each, for each value.

    Raises:
        ValueError: When a value makes no sense.
    """

    along: str = "depth"
    values: tuple[int, ...] = ()
    model: str = "resnet20"
    k: int = 4
    rounds: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(rounds=1, k=1)
        if self.along not in DEFAULTS:
            raise ValueError(f"along={self.along!r} must be one of {', '.join(DEFAULTS)}")
        if not hasattr(registry.preset(self.model)(), "stages"):
            raise ValueError(
                f"model={self.model!r} has no stages of blocks; choose a residual network"
            )
        object.__setattr__(self, "values", self.values or DEFAULTS[self.along])
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"values={self.values} must be different")
        for value in self.values:
            if value < (2 if self.along == "batch" else 1):
                raise ValueError(f"{self.along}={value} is too small")
            if self.along == "depth" and (value < BLOCK + OTHERS or value % BLOCK != OTHERS):
                raise ValueError(f"depth={value} must be 6 n + 2 with n from 1 on: 8, 14, 20 ...")
            layers, k = self._kernels(value), self.of(value)
            if k > layers:
                raise ValueError(f"k={k} is more than the {layers} layers that there are")

    def of(self, value: int) -> int:
        """The number of perturbed layers at a value."""
        return value if self.along == "k" else self.k

    def options(self, value: int) -> dict[str, Any]:
        """Of the model at a value."""
        if self.along == "depth":
            return {"stages": ((value - OTHERS) // BLOCK,) * 3}
        return {"width": value} if self.along == "width" else {}

    def size(self, value: int) -> Size:
        """Of the batch at a value."""
        return Size(value if self.along == "batch" else self.batch_size, self.image_size)

    def _kernels(self, value: int) -> int:
        model = registry.preset(self.model)(num_classes=workload.CLASSES, **self.options(value))
        images = jnp.zeros((1, self.image_size, self.image_size, 3))
        params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        return len(lsam.layer_names(params))


def bench(settings: Settings, out: str | Path | None = None) -> dict[str, Any]:
    """Measures every value, and stores the result as JSON when asked to.

    Args:
        settings: What to measure.
        out: The JSON file; None stores nothing.

    Returns:
        What the file holds: for each value a row of steps, ``programs`` (compile time, memory,
        FLOPs), ``settings`` and ``environment``.

    Raises:
        OSError: When `out` cannot be written; found before anything is measured.
    """
    path = None if out is None else files.writable_file(out)
    rows: dict[str, Any] = {}
    programs: dict[str, Any] = {}
    work: Workload | None = None
    others: dict[str, Timed] = {}
    compiled: dict[Any, CompiledStep] = {}
    for value in settings.values:
        if work is None or settings.along != "k":  # k alone leaves the network what it was
            work = workload.whole_network(
                settings.model, settings.size(value), **settings.options(value)
            )
            others = {SGD: Timed(baselines.sgd(work.loss)), TEXTBOOK: catalog.textbook(work)}
            compiled = {}
        title = f"{settings.along} {value}"
        steps, own = _row(work, others, settings.of(value), settings.rounds, compiled)
        rows[title] = {"value": value, "steps": steps}
        programs |= {f"{title}: {name}": program for name, program in own.items()}
    report = {
        "bench": "scaling",
        "settings": dataclasses.asdict(settings),
        "rows": rows,
        "programs": programs,
        "environment": environment.describe(),
    }
    if path is not None:
        files.write_json(path, report)
    return report


def _row(
    work: Workload,
    others: Mapping[str, Timed],
    k: int,
    rounds: int,
    compiled: dict[Any, CompiledStep],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Costs at one value, and the programs behind them."""
    tx = lsam.layerwise_sam(k, RADIUS)
    layerwise = baselines.layerwise(work.loss, tx)
    network = catalog.inspect(work, tx)
    names = [layer.name for layer in network.layers]
    sets = {LAST: names[-k:], FIRST: names[:k]}
    ends = {n: Timed(layerwise, (forced(tx, work.params, chosen),)) for n, chosen in sets.items()}
    calls = timed.prepare({**others, **ends}, work, compiled)
    found = {
        name: {**measured._asdict(), "images_per_second": work.batch_size / measured.seconds}
        for name, measured in timed.measure(calls, rounds).items()
    }
    for name, chosen in sets.items():
        selected = np.isin(names, chosen)
        found[name] |= {
            "counted": cost_model.both_passes(network, selected),
            "modelled": cost_model.layerwise_sam(network.profile, selected),
        }
    programs = {name: calls[name].program for name in (SGD, TEXTBOOK, LAST)}
    programs["layer-wise SAM"] = programs.pop(LAST)
    return found, timed.described(programs, programs[SGD])
