"""Which layers the norm selects over a run: layer-wise SAM, k=4, on the digits with 40 % noise.

At the radius that held-out images chose in the frontier, three seeds; writes
selected.json, the share of steps in which each kernel was perturbed, and its picture:

    python results/frontier/selected.py
"""

from pathlib import Path

import numpy as np

from lsam_jax.experiments import environment, files
from lsam_jax.experiments.frontier.contenders import CONTENDERS
from lsam_jax.experiments.frontier.ledger import Ledger
from lsam_jax.experiments.frontier.regimes import REGIMES
from lsam_jax.experiments.plotting import panels, short_name
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.step import build

HERE, SEEDS, NAME = Path(__file__).parent, (0, 1, 2), "layers-4"


def shares(history):
    """[epochs, layers], of the steps of each epoch."""
    times = np.diff(np.array(history.perturbations), axis=0, prepend=0)
    return times / np.diff(np.array(history.step), prepend=0)[:, None]


def main():
    regime, ledger = REGIMES["digits-40"], Ledger(HERE / "digits-40.jsonl")
    (contender,) = (c for c in CONTENDERS if c.name == NAME)
    rho = ledger.finals(NAME, "rho")[0]
    program = build(regime.configure(contender, rho, 0))
    runs = [fit(regime.configure(contender, rho, s), program=program).history for s in SEEDS]
    mean = np.mean([shares(run) for run in runs], axis=0)
    names = [short_name(name) for name in program.layers]
    files.write_json(
        HERE / "selected.json",
        {
            "contender": NAME,
            "rho": rho,
            "seeds": SEEDS,
            "accuracy": [round(run.validation_accuracy[-1], 5) for run in runs],
            "layers": names,
            "share_of_steps": mean.round(3).tolist(),
            "environment": environment.describe(),
        },
    )
    figure, places = panels(1, 1, (6.4, 3.8))
    axes = places.flat[0]
    passes = regime.config.passes
    drawn = axes.imshow(mean.T, aspect="auto", vmin=0, vmax=1, cmap="viridis")
    axes.set(xlabel="passes", xticks=range(len(mean)), yticks=range(len(names)), yticklabels=names)
    axes.set_xticklabels([passes * (epoch + 1) for epoch in range(len(mean))])
    figure.colorbar(drawn, label="share of steps that perturb it")
    figure.savefig(HERE / "selected.png", dpi=150)


if __name__ == "__main__":
    main()
