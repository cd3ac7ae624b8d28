"""What layer-wise SAM cost in a real run: measured for the layers that its steps perturbed.

`python results/bench/recorded.py RUN --out results/bench/recorded.json`, RUN being the directory of
a run of `lsam-jax train --method layerwise_sam`. Its last checkpoint has the perturbed layers of
every step of the last epoch. Sorted by counted cost, every n-th of them is taken, so each kind of
step is there as often as it was in the run, and the cheap and the dear ones surely; then their
layers are forced, one set after the other, on the run's network with random images. The mean is
that of the run's steps. The run itself stays as it is.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.bench import catalog, cost_model, timed, workload
from lsam_jax.experiments.bench.baselines import forced
from lsam_jax.experiments.bench.catalog import SGD, TEXTBOOK
from lsam_jax.experiments.bench.timed import Timed
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.training.finished_run import last_state
from lsam_jax.experiments.training.run_directory import configuration
from lsam_jax.experiments.training.step import build


class Recorded(NamedTuple):
    """A run, and bool[steps, L]: the layers that each step of its last epoch perturbed."""

    config: Config
    step: int
    selected: np.ndarray
    channels: int
    image_size: int
    num_classes: int


def read(run, data_dir=None):
    """The perturbed layers of a run's last epoch, from its last checkpoint."""
    config = configuration(run)
    if config.method != "layerwise_sam":
        raise ValueError(
            f"{str(run)!r} is a run of method {config.method!r}; give one of layerwise_sam, whose "
            "steps choose layers"
        )
    program = build(config, datasets.load(config.data, data_dir))
    state = last_state(run, program)
    taken = min(int(state.step), program.steps_per_epoch)  # of a first epoch, the others are empty
    height, _, channels = program.data.train.images.shape[1:]
    selected = np.asarray(state.record.selected)[:taken]
    ks = np.unique(selected.sum(axis=1))
    if len(ks) != 1 or ks[0] == 0:
        raise ValueError(
            f"{str(run)!r} perturbed {', '.join(map(str, ks))} layers in a step; give a run that "
            "perturbs the same number, at least one, in every step"
        )
    return Recorded(config, int(state.step), selected, channels, height, program.data.num_classes)


def transformation(config, k):
    """The run's method, so that stored norms of 1 and 0 force any k layers."""
    options = dict(config.options)
    if options.get("selection") in ("low", "random"):
        options["selection"] = "high"
    return lsam.layerwise_sam(**{**options, "k": k})


def network(found):
    """The run's network in training mode on a random batch of its size."""
    config = found.config
    return workload.whole_network(
        config.model,
        workload.Size(config.batch_size, found.image_size),
        num_classes=found.num_classes,
        channels=found.channels,
        dtype=jnp.dtype(config.dtype).type,
        **({} if config.width is None else {"width": config.width}),
    )


def spread(costs, count):
    """Indices of `count` entries, evenly spread over all of them in ascending order of value."""
    count = min(count, len(costs))
    places = ((np.arange(count) + 0.5) * len(costs) / count).astype(int)
    return np.argsort(costs, kind="stable")[places]


def bench(run, sets=12, rounds=7, data_dir=None):
    found = read(run, data_dir)
    tx, work = transformation(found.config, int(found.selected[0].sum())), network(found)
    inspection = catalog.inspect(work, tx)
    ordered = catalog.in_network_order(inspection, work, tx, found.selected)
    kinds, of_step = np.unique(ordered, axis=0, return_inverse=True)
    of_step = of_step.reshape(-1)
    counted = np.array([inspection.cost(catalog.names_of(inspection, kind)) for kind in kinds])
    modelled = np.array([cost_model.layerwise_sam(inspection.profile, kind) for kind in kinds])
    taken, times = np.unique(of_step[spread(counted[of_step], sets)], return_counts=True)
    share = times / times.sum()

    names = np.array([layer.name for layer in inspection.layers])
    layerwise = lsam.value_and_grad(work.loss, tx, has_aux=True)
    steps = {SGD: Timed(jax.value_and_grad(work.loss, has_aux=True))}
    steps |= {TEXTBOOK: catalog.textbook(work)}
    for n, kind in enumerate(kinds[taken]):
        steps[str(n)] = Timed(layerwise, (forced(tx, work.params, names[kind].tolist()),))
    calls = timed.prepare(steps, work)
    measured = timed.measure(calls, rounds)
    rows = {
        str(n): {
            "layers": names[kinds[kind]].tolist(),
            "share": float(share[n]),
            **measured[str(n)]._asdict(),
            "counted": float(counted[kind]),
            "modelled": float(modelled[kind]),
        }
        for n, kind in enumerate(taken)
    }
    ratio, seconds = (share @ [row[key] for row in rows.values()] for key in ("ratio", "seconds"))
    programs = {SGD: calls[SGD], TEXTBOOK: calls[TEXTBOOK], "layer-wise SAM": calls["0"]}
    return {
        "bench": "recorded",
        "settings": {"run": Path(run).name, "sets": sets, "rounds": rounds},
        "config": found.config.to_json(),
        "step": found.step,
        "steps": len(of_step),
        "kinds": len(kinds),
        "mean": {
            "measured": float(ratio),
            "counted": float(share @ counted[taken]),
            "modelled": float(share @ modelled[taken]),
            "counted_all_steps": float(counted[of_step].mean()),
            "modelled_all_steps": float(modelled[of_step].mean()),
            "images_per_second": work.batch_size / float(seconds),
        },
        "rows": rows,
        "others": {name: measured[name]._asdict() for name in (SGD, TEXTBOOK)},
        "programs": timed.described(
            {name: call.program for name, call in programs.items()}, calls[SGD].program
        ),
        "environment": environment.describe(),
    }


def show(report):
    for row in report["rows"].values():
        cost = f"{row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
        counts = f"counted {row['counted']:.2f}, eq. 8 {row['modelled']:.2f}"
        print(f"{row['share']:4.0%}  {cost}  {counts}  {', '.join(row['layers'])}")
    mean = report["mean"]
    counts = f"counted {mean['counted']:.2f}, eq. 8 {mean['modelled']:.2f}"
    print(f"mean of the {report['steps']} steps before step {report['step']}:")
    print(f"      {mean['measured']:.2f}  {counts}")
    print(f"      {report['others'][TEXTBOOK]['ratio']:.2f}  the textbook mask")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="of a run of method layerwise_sam")
    parser.add_argument("--sets", type=int, default=12, help="steps that are taken from the run")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved steps of each")
    parser.add_argument("--data-dir", help="where TFDS keeps prepared data")
    parser.add_argument("--out", type=files.writable_file)
    a = parser.parse_args(argv)
    report = bench(a.run, a.sets, a.rounds, a.data_dir)
    show(report)
    if a.out:
        files.write_json(a.out, report)


if __name__ == "__main__":
    main()
