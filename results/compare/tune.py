"""Chooses the radii of the noisy-labels preset, on training images alone.

`python results/compare/tune.py [METHOD ...]`. 900 of the 1,200 training images are trained on, with
noisy labels; accuracy is that on the other 300, whose labels are clean, after the last epoch. None
of the seeds is one that `lsam-jax compare` runs. What tune.json has already is not run again.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from lsam_jax.experiments import environment, files
from lsam_jax.experiments.config.presets import preset
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.step import build

PRESET, HELD_OUT, SEEDS = "noisy-digits-resnet8", 300, (10, 11)
GRID = {
    "sgd": (None,),
    "sam": (0.2, 0.4, 0.6, 0.8, 1.1),
    "layerwise_sam": (0.7, 1.0, 1.4, 2.0, 2.8),
    "stale": (0.2, 0.4, 0.6, 0.8, 1.1),
}
PASSES = 10  # over the images between two evaluations
FILE = Path(__file__).with_name("tune.json")


def runs(method, rho, digits):
    """What each seed reached with a radius."""
    config = preset(PRESET).configure(method, **({} if rho is None else {"rho": rho}))
    config = dataclasses.replace(config, passes=PASSES, epochs=config.epochs // PASSES)
    program = build(config, digits)
    found = []
    for seed in SEEDS:
        result = fit(dataclasses.replace(config, seed=seed), program=program)
        state, history = result.state, result.history
        found.append(
            {
                "seed": seed,
                "accuracy": history.validation_accuracy[-1],
                "fitted": program.fitted(state, seed),
            }
        )
    return {"method": method, "rho": rho, "config": config.to_json(), "seeds": found}


def stored():
    """The rows that are there, by method and radius."""
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    return {(row["method"], row["rho"]): row for row in rows}


def main(methods):
    digits = datasets.hold_out(datasets.load("digits"), HELD_OUT)
    for method in methods or GRID:
        for rho in GRID[method]:
            if (method, rho) in stored():
                continue
            row = runs(method, rho, digits)
            accuracy, fitted = (
                100 * np.mean([seed[name] for seed in row["seeds"]])
                for name in ("accuracy", "fitted")
            )
            print(
                f"{method} rho={rho}: accuracy on the held-out images {accuracy:.1f} %, training "
                f"labels fitted {fitted:.1f} %",
                flush=True,
            )
            rows = {**stored(), (method, rho): row}  # of other processes too
            files.write_json(
                FILE,
                {
                    "preset": PRESET,
                    "held_out": HELD_OUT,
                    "rows": [rows[key] for key in sorted(rows, key=str)],
                    "environment": environment.describe(),
                },
            )


if __name__ == "__main__":
    main(sys.argv[1:])
