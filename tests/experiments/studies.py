"""Directories of runs with known numbers; nothing is trained.

Run as a program it writes a whole study, to look at its report.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

from lsam_jax.experiments.config.config import Config

LAYERS = ("stem/kernel", "block0/conv1/kernel", "block0/conv2/kernel", "block1/conv1/kernel",
          "block1/conv2/kernel", "head/kernel")  # fmt: skip
STEPS = 10  # in an epoch
ENVIRONMENT = {"date": "2026-11-24T11:02:48+00:00", "python": "3.11.7", "jax": "0.10.2",
               "platform": "cpu", "cpu_model": "a <CPU> & more", "xla_flags": ""}  # fmt: skip


def config(method="sgd", epochs=4, seed=0, passes=1, **options):
    found = Config(method=method, options=options, epochs=epochs, seed=seed).to_json()
    return {**found, "images": 2000, "augment": False, "passes": passes}


def record(epoch, layers=LAYERS, **values):
    numbers = {
        "epoch": epoch,
        "step": STEPS * epoch,
        "train_loss": 2.0 / epoch,
        "train_accuracy": 1 - 0.5 / epoch,
        "validation_loss": 2.2 / epoch,
        "validation_accuracy": 0.5,
        "gradient_norm": 0.3,
        "layer_norms": {layer: 0.1 + 0.1 * i for i, layer in enumerate(layers)},
        "perturbations": dict.fromkeys(layers, 0),
        "cost": 1.0,
    }
    return {**numbers, **values}


def write_run(directory, settings, records, environment=ENVIRONMENT):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"config": settings, "origin": {}}))
    (directory / "environment.json").write_text(json.dumps(environment))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def write_simple(directory, method, accuracies, epochs=4, cost=1.0, passes=1, **options):
    """A run for each seed, of one cost, with the accuracy of its last epoch."""
    for seed, accuracy in enumerate(accuracies):
        settings = config(method, epochs, seed, passes, **options)
        write_run(
            directory / f"seed{seed}",
            settings,
            [
                record(
                    e,
                    validation_accuracy=accuracy * e / epochs,
                    step=STEPS * passes * e,
                    cost=cost,
                    perturbations=dict.fromkeys(LAYERS, 0 if method == "sgd" else 3 * e),
                )
                for e in range(1, epochs + 1)
            ],
        )


# What follows is a study as a real one could come out.

RESNET20 = ("stem/kernel", *(f"block{b}/{part}/kernel" for b in range(9)
            for part in ("conv1", "conv2", *(["shortcut"] if b in (0, 3, 6) else []))),
            "head/kernel")  # fmt: skip

METHODS = {  # name: label, method, options, accuracy, cost, epochs as a share
    "sgd": ("SGD", "sgd", {}, 71.2, 1.0, 1.0),
    "sgd-x1.5": ("SGD, 1.5 x longer", "sgd", {}, 71.9, 1.0, 1.5),
    "sgd-x2": ("SGD, 2 x longer", "sgd", {}, 72.1, 1.0, 2.0),
    "gsam": ("generalized SAM", "generalized_sam", {"rho": 0.1, "alpha": 0.8}, 72.5, 2.0, 1.0),
    "looksam": ("LookSAM", "look_sam", {"rho": 0.1, "every": 3, "alpha": 0.8}, 71.9, 1.33, 1.0),
    "lsam-k4": ("layer-wise SAM, k=4", "layerwise_sam", {"k": 4}, 72.4, 1.31, 1.0),
    "sam": ("SAM", "sam", {"rho": 0.05}, 72.3, 2.0, 1.0),
    "momentum-sam": ("Momentum-SAM", "momentum_sam", {"rho": 0.3}, 71.6, 1.0, 1.0),
    "lsam-10": ("layer-wise SAM, budget 10 %", "layerwise_sam", {"k": 3}, 71.8, 1.09, 1.0),
    "lsam-25": ("layer-wise SAM, budget 25 %", "layerwise_sam", {"k": 5}, 72.2, 1.22, 1.0),
    "lsam-random": ("random", "layerwise_sam", {"selection": "random"}, 71.7, 1.5, 1.0),
    "lsam-low": ("low norm", "layerwise_sam", {"selection": "low"}, 71.1, 1.4, 1.0),
    "lsam-k1": ("k = 1", "layerwise_sam", {"k": 1}, 71.9, 1.1, 1.0),
    "lsam-k2": ("k = 2", "layerwise_sam", {"k": 2}, 72.0, 1.2, 1.0),
    "lsam-k8": ("k = 8", "layerwise_sam", {"k": 8}, 72.5, 1.5, 1.0),
}
PAPER = "Lee, KDD 2024"
TABLES = (
    ("table1", "Table 1: methods on CIFAR-10", {
        "sgd": (91.96, 0.3, 659.2), "gsam": (92.64, 0.4, 459.5), "looksam": (92.14, 0.4, 595.2),
        "lsam-k4": (92.81, 0.3, 604.2), "sam": None, "momentum-sam": None, "esam": None,
        "lsam-10": None, "lsam-25": None}),
    ("table3", "Table 3: which layers", {
        "sgd": (91.63, 0.3, None), "lsam-k4": (92.81, 0.3, None),
        "lsam-random": (92.46, 0.3, None), "lsam-low": (91.40, 0.4, None)}),
    ("table4", "Table 4: how many layers", {
        "sgd": (91.96, 0.3, 659.2), "lsam-k1": (92.51, 0.5, 628.5),
        "lsam-k2": (92.57, 0.4, 617.0), "lsam-k4": (92.81, 0.3, 604.2),
        "lsam-k8": (92.77, 0.5, 564.5), "gsam": (92.64, 0.4, 459.5)}),
)  # fmt: skip


SOME = ("sgd", "sgd-x2", "looksam", "lsam-k4", "lsam-low")


def write_study(
    directory,
    names=tuple(METHODS),
    tables=TABLES,
    layers=RESNET20,
    epochs=20,
    seeds=(0, 1, 2),
    points=40,
):
    """Everything that a report can show, and one of each trouble."""
    runs = {}
    for name in names:
        label, method, options, accuracy, cost, share = METHODS[name]
        length = round(epochs * share)
        runs[name] = {"label": label, "config": config(method, length, passes=5, **options)}
        for seed in seeds:
            rng = np.random.default_rng(zlib.crc32(f"{name}{seed}".encode()))
            place = directory / name / f"seed{seed}"
            final = accuracy + [-0.3, 0.1, 0.25][seed % 3] + rng.normal(0, 0.12)
            kept = length - 7 if (name, seed) == ("lsam-low", 2) else length
            records = _curve(rng, layers, method, dict(options), final, cost, length)[:kept]
            write_run(place, {**runs[name]["config"], "seed": seed}, records)
            _diagnose(place, rng, layers, seed, accuracy, points if seed == seeds[0] else None)
    runs["esam"] = {"label": "ESAM", "config": config("sam", epochs)}
    _damage(directory / "looksam" / "seed1" / "metrics.jsonl")
    _plan(directory, runs, tables, seeds)
    _across(directory, [name for name in names if name != "lsam-low"], seeds)


def _curve(rng, layers, method, options, final, cost, length):
    """Records like those of a run that fits its training images and drops its rate twice."""
    k = {"sgd": 0, "layerwise_sam": options.get("k", 4)}.get(method, len(layers))
    liking = np.linspace(0.2, 1, len(layers)) ** 2 + rng.uniform(0, 0.3, len(layers))
    if options.get("selection") == "low":
        liking = 1 / liking
    shares = np.minimum(1, k * liking / liking.sum()) if k < len(layers) else np.ones(len(layers))
    records = []
    for epoch in range(1, length + 1):
        t = epoch / length
        calm = 0.4 if t > 2 / 3 else 1.0
        step = 75 * epoch
        norms = 0.2 * calm * (1.2 - t) * np.linspace(0.3, 1.2, len(layers))
        norms = norms * np.exp(rng.normal(0, 0.15, len(layers)))
        value = final - 38 * np.exp(-5 * t) - (2.2 * calm if t <= 2 / 3 else 0)
        records.append(
            record(
                epoch,
                layers,
                step=step,
                train_loss=0.5 + 1.8 * np.exp(-4 * t) * calm + 0.02 * rng.normal(),
                train_accuracy=min(1.0, 1 - 0.6 * np.exp(-5 * t)),
                validation_loss=0.9 + np.exp(-4 * t),
                validation_accuracy=(value + rng.normal(0, 0.5) * calm * (t < 1)) / 100,
                gradient_norm=float(np.linalg.norm(norms)),
                layer_norms=dict(zip(layers, norms.tolist(), strict=True)),
                perturbations=dict(zip(layers, (shares * step).astype(int).tolist(), strict=True)),
                cost=cost + 0.03 * (rng.uniform() - 0.5) * (cost not in (1.0, 2.0)),
            )
        )
    return records


def _diagnose(place, rng, layers, seed, accuracy, points):
    flat = 1 / (1 + max(0.0, accuracy - 71))
    sharp = {
        "images": 1024, "seed": seed, "rho": 0.05, "train_loss": 0.51,
        "ball": {"loss": 0.6, "rise": 0.09 * flat * rng.uniform(0.9, 1.1)},
        "top_eigenvalue": 40 * flat * rng.uniform(0.9, 1.1),
        "trace": {"mean": 900 * flat * rng.uniform(0.9, 1.1), "standard_error": 20, "probes": 16},
        "layers": {
            layer: {"gradient_norm": 0.1, "top_eigenvalue": 12 * flat * rng.uniform(0.2, 1),
                    "ball_rise": 0.02 * flat * rng.uniform(0.1, 1) - 0.0005}
            for layer in layers
        },
        "environment": {},
    }  # fmt: skip
    (place / "sharpness.json").write_text(json.dumps(sharp))
    if points is not None:
        steps = np.linspace(-20, 20, points)
        a, b = np.meshgrid(steps, steps, indexing="ij")
        stretch = flat * rng.uniform(0.2, 1.5, len(layers))[:, None, None]
        loss = 0.5 + 2.6 * (1 - np.exp(-stretch * (a**2 + 1.6 * b**2 + 0.4 * a * b) / 150))
        loss = loss * (1 + 0.8 * stretch * (a**2 + b**2) / 400)
        unit = np.linspace(-1, 1, points)
        u, v = np.meshgrid(unit, unit, indexing="ij")
        model = 0.5 + 8 * flat * (u**2 + 0.7 * v**2 + 0.3 * u * v)
        np.savez(place / "landscapes.npz", steps=steps, layers=np.array(layers), loss=loss,
                 model_steps=unit, model_loss=model)  # fmt: skip


def _damage(file):
    lines = file.read_text().splitlines()
    lines[2] = lines[2][:40]
    file.write_text("\n".join(lines) + "\n")


def _plan(directory, runs, wanted, seeds):
    tables = []
    for name, title, rows in wanted:
        listed = []
        for run, published in rows.items():
            if run not in runs:
                continue
            keys = ("accuracy", "std", "throughput")
            known = {k: v for k, v in zip(keys, published or (), strict=False) if v is not None}
            label = runs[run]["label"] if run != "sgd" or name != "table3" else "none"
            listed.append({"run": run, "label": label, "published": known})
        tables.append({"name": name, "title": title, "caption": "", "paper": f"{PAPER}, {name}",
                       "rows": listed})  # fmt: skip
    plan = {
        "name": [name for name, *_ in wanted],
        "scale": {"name": "cpu", "says": ["2,000 of the 50,000 training images, no augmentation",
                                          "100 passes instead of 150"]},
        "command": "lsam-jax reproduce table1 table3 table4 --scale cpu --seeds 3",
        "seeds": list(seeds), "runs": runs, "tables": tables,
        "failures": {"esam/seed1": "the loss is not finite after step 42"},
    }  # fmt: skip
    (directory / "study.json").write_text(json.dumps(plan))


def _across(directory, names, seeds):
    costs = {
        name: {"cost": {"seconds": 0.1, "mean": METHODS[name][4] * 1.03,
                        "low": METHODS[name][4], "high": METHODS[name][4] * 1.06}}
        for name in names
    }  # fmt: skip
    costs["sgd"]["cost"] = {"seconds": 0.1, "mean": 1.0, "low": 1.0, "high": 1.0}
    (directory / "costs.json").write_text(json.dumps({"runs": costs, "rounds": 15}))
    runs = [f"{name}/seed{seed}" for name in names[:6] for seed in seeds]
    rng = np.random.default_rng(0)
    relative = rng.uniform(0.8, 1.3, (len(runs), len(runs)))
    relative = (relative + relative.T) / 2 * (1 - np.eye(len(runs)))
    found = {"runs": runs, "distance": (20 * relative).tolist(), "relative": relative.tolist(),
             "from_start": rng.uniform(15, 25, len(runs)).tolist()}  # fmt: skip
    (directory / "distances.json").write_text(json.dumps(found))


if __name__ == "__main__":
    write_study(Path(sys.argv[1]))
