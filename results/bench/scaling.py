"""How the cost of a step grows with the depth, the width, the batch, or the perturbed layers.

`python results/bench/scaling.py depth --batch 32 --rounds 5 --out results/bench/depth.json`, or
`width`, `batch`, `k`. A residual network: SGD, the textbook mask, and layer-wise SAM at both ends,
with the k layers nearest the output forced, which is the cheapest choice that there is, and with
the k nearest the input, the dearest. A run lies between. Steps of one value are timed in turn;
median of the rounds' ratios to SGD. `--plot FILE.png` draws measured (with quartiles), counted
(dashed) and the paper's eq. 8 (dotted).
"""

import argparse
import dataclasses

import jax
import numpy as np
from matplotlib.figure import Figure

import lsam_jax as lsam
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.bench import catalog, cost_model, timed, workload
from lsam_jax.experiments.bench.baselines import forced
from lsam_jax.experiments.bench.catalog import RADIUS, SGD, TEXTBOOK
from lsam_jax.experiments.bench.timed import Timed
from lsam_jax.experiments.plotting import COLOURS, open_frame

LAST, FIRST = "layer-wise SAM, last layers", "layer-wise SAM, first layers"
VALUES = {
    "depth": (8, 14, 20, 32),  # 6 n + 2 with n blocks in each of three stages
    "width": (8, 16, 32),  # channels of the first stage
    "batch": (32, 64, 128, 256),
    "k": (1, 2, 4, 8, 16),
}


@dataclasses.dataclass(frozen=True)
class Settings(workload.Size):
    """What is measured, on what."""

    along: str = "depth"
    values: tuple[int, ...] = ()
    model: str = "resnet20"
    k: int = 4
    rounds: int = 7

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "values", self.values or VALUES[self.along])
        for value in self.values:
            if self.along == "depth" and (value < 8 or value % 6 != 2):
                raise ValueError(f"depth={value} must be 6 n + 2 with n from 1 on: 8, 14, 20 ...")

    def work(self, value):
        """The network and its batch at a value."""
        options = {"depth": {"stages": ((value - 2) // 6,) * 3}, "width": {"width": value}}
        batch = value if self.along == "batch" else self.batch_size
        size = workload.Size(batch, self.image_size)
        return workload.whole_network(self.model, size, **options.get(self.along, {}))


def row(work, k, rounds):
    """Costs at one value, and the programs behind them."""
    tx = lsam.layerwise_sam(k, RADIUS)
    network, layerwise = catalog.inspect(work, tx), lsam.value_and_grad(work.loss, tx, has_aux=True)
    names = [layer.name for layer in network.layers]
    sets = {LAST: names[-k:], FIRST: names[:k]}
    steps = {SGD: Timed(jax.value_and_grad(work.loss, has_aux=True))}
    steps |= {TEXTBOOK: catalog.textbook(work)}
    steps |= {n: Timed(layerwise, (forced(tx, work.params, s),)) for n, s in sets.items()}
    calls = timed.prepare(steps, work)
    found = {
        name: {**measured._asdict(), "images_per_second": work.batch_size / measured.seconds}
        for name, measured in timed.measure(calls, rounds).items()
    }
    for name, chosen in sets.items():
        selected = np.isin(names, chosen)
        found[name] |= {
            "counted": network.cost(chosen),
            "modelled": cost_model.layerwise_sam(network.profile, selected),
        }
    programs = {name: calls[name].program for name in (SGD, TEXTBOOK, LAST)}
    return found, timed.described(programs, programs[SGD])


def bench(settings):
    report = {"bench": "scaling", "settings": dataclasses.asdict(settings), "rows": {}}
    report |= {"programs": {}, "environment": environment.describe()}
    for value in settings.values:
        k = value if settings.along == "k" else settings.k
        steps, programs = row(settings.work(value), k, settings.rounds)
        title = f"{settings.along} {value}"
        report["rows"][title] = {"value": value, "steps": steps}
        report["programs"] |= {f"{title}: {name}": found for name, found in programs.items()}
        for name, step in steps.items():
            counts = [f"{step[key]:.2f}" for key in ("counted", "modelled") if key in step]
            cost = f"{step['ratio']:.2f} ({step['low']:.2f}-{step['high']:.2f})"
            print(f"{title:10} {name:30} {cost}  counted, eq. 8: {', '.join(counts) or '-'}")
    return report


def draw(report, path):
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    rows, along = list(report["rows"].values()), report["settings"]["along"]
    x = [row["value"] for row in rows]
    for name, colour in zip((TEXTBOOK, LAST, FIRST), COLOURS):
        steps = [row["steps"][name] for row in rows]
        ratio, low, high = (np.array([s[key] for s in steps]) for key in ("ratio", "low", "high"))
        axes.errorbar(x, ratio, [ratio - low, high - ratio], color=colour, marker="o", label=name)
        for count, line in (("counted", "--"), ("modelled", ":")):
            axes.plot(x, [s.get(count, np.nan) for s in steps], line, color=colour, lw=1.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [str(value) for value in x])
    axes.minorticks_off()
    axes.set(xlabel=along, ylabel="cost of a gradient step (SGD = 1)", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=3, title="dashed: counted; dotted: eq. 8")
    open_frame(axes)
    figure.savefig(path, dpi=150)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("along", choices=VALUES)
    parser.add_argument("--values", type=lambda text: tuple(map(int, text.split(","))), default=())
    parser.add_argument("--model", default="resnet20", help="a residual network")
    for name, value in {"batch": 128, "image-size": 32, "k": 4, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=files.writable_file)
    parser.add_argument("--plot", type=files.writable_file)
    a = parser.parse_args(argv)
    report = bench(Settings(a.batch, a.image_size, a.along, a.values, a.model, a.k, a.rounds))
    if a.out:
        files.write_json(a.out, report)
    if a.plot:
        draw(report, a.plot)


if __name__ == "__main__":
    main()
