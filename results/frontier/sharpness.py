"""Why: sharpness over a run, on samples whose labels are right and on those whose labels are wrong.

The digits with 40 % noise of the frontier, each contender at the radius that its held-out images
chose. After every third pass: loss, largest eigenvalue of the Hessian and rise in the SAM ball,
each of the same 128 right and 128 wrong training samples, with BatchNorm's running statistics. One
JSON line a run, made once, then sharpness.md and sharpness.png:

    python results/frontier/sharpness.py
"""

import json
from pathlib import Path

import jax
import numpy as np

from lsam_jax import diagnostics
from lsam_jax.experiments import environment
from lsam_jax.experiments.data.split import Split
from lsam_jax.experiments.frontier.contenders import CONTENDERS
from lsam_jax.experiments.frontier.ledger import Ledger
from lsam_jax.experiments.frontier.regimes import REGIMES
from lsam_jax.experiments.plotting import COLOURS, LINES, logarithmic, open_frame, panels
from lsam_jax.experiments.study.evaluation_loss import EvaluationLoss
from lsam_jax.experiments.training.loop import Watcher, fit
from lsam_jax.experiments.training.step import build

HERE, SEEDS, SAMPLES, RADIUS = Path(__file__).parent, (0, 1, 2), 128, 0.5
NAMES = ("sgd", "sam", "sam-1/8", "momentum", "only-last-third", "last-fifth")
"""SGD and SAM, the two cheapest that keep SAM's gain, and two that do not."""
GROUPS = ("right", "wrong")
MEASURES = {
    "loss": "loss",
    "top_eigenvalue": "largest eigenvalue of the Hessian",
    "ball_rise": f"rise of the loss within {RADIUS}",
}
REGIME, FILE = REGIMES["digits-40"], HERE / "sharpness.jsonl"
BY_NAME = {contender.name: contender for contender in CONTENDERS}


class Sharpness(Watcher):
    """What is measured after every epoch of a run."""

    def __init__(self, program, seed):
        self.loss_fn, self.seen = EvaluationLoss(program.loss_fn), []
        given, right = program.train(seed), program.data.train.labels
        wrong = np.asarray(given.labels) != np.asarray(right)
        self.groups = {
            name: Split(*(np.asarray(part)[of][:SAMPLES] for part in given))
            for name, of in zip(GROUPS, (~wrong, wrong), strict=True)
        }

    def epoch(self, state, history, timing):
        self.seen.append({name: self.measure(state, x) for name, x in self.groups.items()})

    def measure(self, state, samples):
        of = self.loss_fn, state.params, samples, state.batch_stats
        ball = diagnostics.sam_ball(*of, rho=RADIUS)
        (top,) = diagnostics.hessian_eigenvalues(*of, key=jax.random.key(0), tolerance=1e-2)
        found = {"loss": ball.clean, "top_eigenvalue": float(top), "ball_rise": ball.rise}
        return {name: round(float(x), 4) for name, x in found.items()}


def made(name, rho, seed, program):
    watcher = Sharpness(program, seed)
    config = REGIME.configure(BY_NAME[name], rho, seed)
    accuracy = fit(config, program=program, watcher=watcher).history.validation_accuracy
    known = {name: environment.describe()[name] for name in ("jax", "date")}
    rounded = [round(x, 5) for x in accuracy]
    row = {"contender": name, "rho": rho, "seed": seed, "accuracy": rounded}
    return {**row, "seen": watcher.seen, **known}


def run():
    """All rows; those that are stored are not made again."""
    ledger = Ledger(HERE / f"{REGIME.name}.jsonl")
    rows = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    there = {(row["contender"], row["seed"]) for row in rows}
    for name in NAMES:
        rho = ledger.finals(name, "rho")[0]
        program = None
        for seed in SEEDS:
            if (name, seed) in there:
                continue
            program = program or build(REGIME.configure(BY_NAME[name], rho, seed))
            row = made(name, rho, seed, program)
            assert row["accuracy"] == ledger.finals(name)[seed], "not the frontier's own run"
            rows.append(row)
            with FILE.open("a") as lines:
                lines.write(json.dumps(row, allow_nan=False) + "\n")
            print(name, seed, row["seen"][-1], flush=True)
    return rows


def series(rows, name, group, measure):
    """[seeds, epochs]."""
    mine = [row["seen"] for row in rows if row["contender"] == name]
    return np.array([[epoch[group][measure] for epoch in seen] for seen in mine])


def table(rows):
    """After a third of a run and at its end, mean and standard deviation of the seeds."""
    head = ["", *(f"{g}: {words}" for g in GROUPS for words in MEASURES.values())]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in NAMES:
        cells = []
        for group in GROUPS:
            for measure in MEASURES:
                of = series(rows, name, group, measure)
                early, late = of[:, 2], of[:, -1]
                cells.append(
                    " → ".join(f"{x.mean():.2f} ± {x.std(ddof=1):.2f}" for x in (early, late))
                )
        lines.append(f"| {BY_NAME[name].label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows):
    figure, places = panels(6, 3, (4.2, 3.2))
    passes = REGIME.config.passes * np.arange(1, REGIME.config.epochs + 1)
    for (group, measure), axes in zip(
        ((g, m) for g in GROUPS for m in MEASURES), places.flat, strict=True
    ):
        for name, colour, line in zip(NAMES, COLOURS, LINES, strict=True):
            of = series(rows, name, group, measure)
            axes.plot(passes, of.mean(0), color=colour, ls=line, label=BY_NAME[name].label)
            axes.fill_between(passes, of.min(0), of.max(0), color=colour, alpha=0.15, lw=0)
        axes.set(title=f"{group} labels", xlabel="passes", ylabel=MEASURES[measure])
        logarithmic(axes)
        open_frame(axes)
    places.flat[0].legend(fontsize=7)
    figure.savefig(HERE / "sharpness.png", dpi=150)


if __name__ == "__main__":
    rows = run()
    (HERE / "sharpness.md").write_text(table(rows) + "\n")
    draw(rows)
