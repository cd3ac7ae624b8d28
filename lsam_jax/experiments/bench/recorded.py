"""What layer-wise SAM cost in a real run: measured for the layers that its steps perturbed.

A checkpoint has the perturbed layers of every step of its epoch. Sorted by counted cost, every
n-th of them is taken, so each kind of step is there as often as it was in the run, and the cheap
and the dear ones surely; then their layers are forced, one set after the other, on the run's
network with random images. The mean is that of the run's steps.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.bench import baselines, catalog, cost_model, timed, workload
from lsam_jax.experiments.bench.baselines import forced
from lsam_jax.experiments.bench.catalog import SGD, TEXTBOOK
from lsam_jax.experiments.bench.timed import Timed
from lsam_jax.experiments.bench.workload import Size, Workload
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.training.finished_run import last_state
from lsam_jax.experiments.training.run_directory import configuration
from lsam_jax.experiments.training.step import build

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        run: The directory of a run of layer-wise SAM.
        sets: How many steps of the run are taken at most.
        rounds: Interleaved steps of each.

    Raises:
        ValueError: When a value makes no sense.
    """

    run: PathLike
    sets: int = 12
    rounds: int = 7

    def __post_init__(self) -> None:
        for name in ("sets", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class Recorded(NamedTuple):
    """What a run recorded.

    Attributes:
        config: Of the run.
        step: Steps taken.
        selected: bool[steps, L], by step of the last epoch; layers as a state has them.
        channels: Of its images.
        image_size: Their height.
        num_classes: Of its data.
    """

    config: Config
    step: int
    selected: np.ndarray
    channels: int
    image_size: int
    num_classes: int


def read(run: PathLike, data_dir: PathLike | None = None) -> Recorded:
    """The perturbed layers of a run's last epoch, from its last checkpoint.

    Args:
        run: The directory.
        data_dir: Where TFDS keeps prepared data; None for its default.

    Raises:
        ValueError: When it holds no run, no checkpoint, or none of layer-wise SAM.
        OSError: When the checkpoint cannot be read.
    """
    config = configuration(run)
    if config.method != "layerwise_sam":
        raise ValueError(
            f"{str(run)!r} is a run of method {config.method!r}; give one of layerwise_sam, whose "
            "choose layers"
        )
    program = build(config, datasets.load(config.data, data_dir))
    state = last_state(run, program)
    taken = min(int(state.step), program.steps_per_epoch)  # of a first epoch, the others are empty
    height, _, channels = program.data.train.images.shape[1:]
    selected = np.asarray(state.record.selected)[:taken]
    return Recorded(config, int(state.step), selected, channels, height, program.data.num_classes)


def transformation(config: Config, k: int) -> lsam.SamTransformation:
    """The run's method, so that stored norms of 1 and 0 force any k layers.

    What chooses by the smallest norms, or by chance, is replaced by what chooses by the largest.
    """
    options = dict(config.options)
    if options.get("selection") in ("low", "random"):
        options["selection"] = "high"
    return lsam.layerwise_sam(**{**options, "k": k})


def network(found: Recorded) -> Workload:
    """The run's network in training mode on a random batch of its size."""
    width = {} if found.config.width is None else {"width": found.config.width}
    return workload.whole_network(
        found.config.model,
        Size(found.config.batch_size, found.image_size),
        num_classes=found.num_classes,
        channels=found.channels,
        dtype=jnp.dtype(found.config.dtype).type,
        **width,
    )


def spread(costs: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` entries, evenly spread over all of them in ascending order of value.

    Args:
        costs: f64[N].
        count: At most; N of them when there are no more.

    Example:
        >>> spread(np.array([3.0, 1.0, 2.0, 5.0]), 2).tolist()
        [2, 3]
    """
    count = min(count, len(costs))
    places = ((np.arange(count) + 0.5) * len(costs) / count).astype(int)
    return np.argsort(costs, kind="stable")[places]


def bench(
    settings: Settings, out: str | Path | None = None, *, data_dir: PathLike | None = None
) -> dict[str, Any]:
    """Measures the cost of the steps of a run, and stores it as JSON when asked to.

    Args:
        settings: What to measure.
        out: The JSON file; None stores nothing.
        data_dir: Where TFDS keeps prepared data; None for its default.

    Returns:
        What the file holds: a row for each set of layers with its share of the steps taken, and
        ``mean``: of the measured cost, of the two counts, and of the counts over all steps.

    Raises:
        ValueError: When the run is not one of layer-wise SAM that perturbs k layers in every step.
        OSError: When the run cannot be read, or `out` cannot be written.
    """
    path = None if out is None else files.writable_file(out)
    found = read(settings.run, data_dir)
    ks = np.unique(found.selected.sum(axis=1))
    if len(ks) != 1 or ks[0] == 0:
        raise ValueError(
            f"{str(settings.run)!r} perturbed {', '.join(map(str, ks))} layers in a step; give a "
            "run that perturbs the same number, at least one, in every step"
        )
    tx = transformation(found.config, int(ks[0]))
    work = network(found)
    inspection = catalog.inspect(work, tx)
    ordered = catalog.in_network_order(inspection, work, tx, found.selected)
    kinds, of_step = np.unique(ordered, axis=0, return_inverse=True)
    counted = np.array([cost_model.both_passes(inspection, kind) for kind in kinds])
    modelled = np.array([cost_model.layerwise_sam(inspection.profile, kind) for kind in kinds])
    of_step = of_step.reshape(-1)
    taken, times = np.unique(of_step[spread(counted[of_step], settings.sets)], return_counts=True)
    share = times / times.sum()

    steps, sets = _steps(work, tx, inspection, kinds[taken])
    calls = timed.prepare(steps, work)
    measured = timed.measure(calls, settings.rounds)
    rows = {
        str(n): {
            "layers": layers,
            "share": float(share[n]),
            **measured[str(n)]._asdict(),
            "counted": float(counted[kind]),
            "modelled": float(modelled[kind]),
        }
        for n, (kind, layers) in enumerate(zip(taken, sets, strict=True))
    }
    ratio = np.array([row["ratio"] for row in rows.values()])
    seconds = np.array([row["seconds"] for row in rows.values()])
    programs = {name: calls[name].program for name in (SGD, "0", TEXTBOOK)}
    programs["layer-wise SAM"] = programs.pop("0")
    report = {
        "bench": "recorded",
        "settings": {**dataclasses.asdict(settings), "run": Path(settings.run).name},
        "config": found.config.to_json(),
        "step": found.step,
        "steps": len(of_step),
        "kinds": len(kinds),
        "mean": {
            "measured": float(share @ ratio),
            "counted": float(share @ counted[taken]),
            "modelled": float(share @ modelled[taken]),
            "counted_all_steps": float(counted[of_step].mean()),
            "modelled_all_steps": float(modelled[of_step].mean()),
            "images_per_second": work.batch_size / float(share @ seconds),
        },
        "rows": rows,
        "others": {name: measured[name]._asdict() for name in (SGD, TEXTBOOK)},
        "programs": timed.described(programs, programs[SGD]),
        "environment": environment.describe(),
    }
    if path is not None:
        files.write_json(path, report)
    return report


def _steps(
    work: Workload, tx: lsam.SamTransformation, inspection: lsam.Inspection, kinds: np.ndarray
) -> tuple[dict[str, Timed], list[list[str]]]:
    """SGD, the textbook mask, and layer-wise SAM forced to each set; and the names of the sets."""
    layerwise = baselines.layerwise(work.loss, tx)
    names = [layer.name for layer in inspection.layers]
    sets = [[n for n, one in zip(names, kind, strict=True) if one] for kind in kinds]
    return {
        SGD: Timed(baselines.sgd(work.loss)),
        TEXTBOOK: catalog.textbook(work),
        **{
            str(n): Timed(layerwise, (forced(tx, work.params, layers),))
            for n, layers in enumerate(sets)
        },
    }, sets
