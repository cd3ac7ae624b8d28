"""What a step of every method of the library costs, relative to SGD.

All methods take their own defaults, and one step of each runs in turn, see `timing`. States go on
from step to step, so a method that perturbs every fifth step, or draws its layers, is measured
over many of them: the mean counts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.table import Table

import lsam_jax as lsam
from lsam_jax.experiments import environment, models, output, timing
from lsam_jax.experiments.workload import CLASSES, Size, random_batch

SGD = "SGD"


@dataclasses.dataclass(frozen=True)
class MethodSettings(Size):
    """What to measure, on what; see `workload.Size`.

    Args:
        rounds: Steps of each method.
        methods: Their names in `steps_of`; empty for all. SGD is always there.

    Raises:
        ValueError: When a value makes no sense.
    """

    rounds: int = 15
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(rounds=1)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network in training mode as the losses that methods ask for.

    Args:
        model: A Flax module.
    """

    model: Any

    def outputs(self, params: Any, stats: Any, images: Any, labels: Any, key: Any) -> Any:
        """Logits and new running statistics."""
        return self.model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )

    def of_outputs(self, outputs: Any, stats: Any, images: Any, labels: Any, key: Any) -> Any:
        """Mean cross-entropy and the statistics."""
        losses, updated = self._losses(outputs, labels)
        return losses.mean(), updated

    def each(self, params: Any, stats: Any, images: Any, labels: Any, key: Any) -> Any:
        """Cross-entropy of each sample and the statistics."""
        return self._losses(self.outputs(params, stats, images, labels, key), labels)

    def mean(self, params: Any, *args: Any) -> Any:
        """Mean cross-entropy and the statistics."""
        return self.of_outputs(self.outputs(params, *args), *args)

    @staticmethod
    def _losses(outputs: Any, labels: Any) -> tuple[jax.Array, Any]:
        logits, updated = outputs
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses, updated["batch_stats"]


def steps_of(classifier: Classifier) -> dict[str, tuple[lsam.SamTransformation | None, Any]]:
    """Every method with its defaults, and the loss that it takes; SGD first, which has none."""
    mean = classifier.mean
    samples = lsam.per_sample(classifier.each, argnums=(2, 3))
    parts = lsam.split_loss(classifier.outputs, classifier.of_outputs)
    return {
        SGD: (None, mean),
        "sam": (lsam.sam(), mean),
        "generalized_sam": (lsam.generalized_sam(), mean),
        "layerwise_sam, k=4": (lsam.layerwise_sam(4, 0.1, 0.8), mean),
        "layerwise_sam, budget(0.1)": (
            lsam.layerwise_sam(4, 0.1, 0.8, selection=lsam.budget(0.1)),
            mean,
        ),
        "look_sam": (lsam.look_sam(), mean),
        "look_sam, k=4, high": (
            lsam.look_sam(k=4, selection="high", layers="kernel"),
            mean,
        ),
        "esam": (lsam.esam(), samples),
        "sparse_sam": (lsam.sparse_sam(), mean),
        "sl_sam": (lsam.sl_sam(), mean),
        "sl_sam, budget 0.1": (lsam.sl_sam(budget=0.1), mean),
        "asam": (lsam.asam(), mean),
        "gsam": (lsam.gsam(), mean),
        "gam": (lsam.gam(), mean),
        "ae_sam": (lsam.ae_sam(), mean),
        "stable_sam": (lsam.stable_sam(), mean),
        "functional_sam": (lsam.functional_sam(), parts),
        "adazo_sam": (lsam.adazo_sam(), mean),
        "sam_on": (lsam.sam_on(), mean),
        "momentum_sam": (lsam.momentum_sam(), mean),
    }


def bench_methods(settings: MethodSettings, out: str | Path | None = None) -> dict[str, Any]:
    """Measures every method, and stores the result as JSON when asked to.

    Args:
        settings: What to measure.
        out: The JSON file; None stores nothing.

    Returns:
        What the file holds: ``costs`` by method, ``settings`` and ``environment``.

    Raises:
        OSError: When `out` cannot be written; found before anything is measured.
    """
    path = None if out is None else output.writable_file(out)
    model = models.preset(settings.model)(num_classes=CLASSES)
    images, labels = random_batch(settings.batch_size, settings.image_size)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    known = steps_of(Classifier(model))
    for name in settings.methods:
        if name not in known:
            raise ValueError(f"method={name!r} is not known; choose from {'; '.join(known)}")
    params = variables["params"]
    args = (variables["batch_stats"], images, labels, jax.random.key(1))
    steppers = {
        name: _stepper(tx, loss, params, args)
        for name, (tx, loss) in known.items()
        if name == SGD or not settings.methods or name in settings.methods
    }
    seconds = timing.interleaved(steppers, settings.rounds)
    ratios = seconds / np.median(seconds[:, 0])
    report = {
        "settings": dataclasses.asdict(settings),
        "costs": {
            name: {
                "mean": float(ratios[:, i].mean()),
                "least": float(ratios[:, i].min()),
                "most": float(ratios[:, i].max()),
            }
            for i, name in enumerate(steppers)
        },
        "environment": environment.describe(),
    }
    if path is not None:
        output.write_json(path, report)
    return report


def _stepper(
    tx: lsam.SamTransformation | None, loss: Any, params: Any, args: Any
) -> Callable[[], Any]:
    """One step after the other, with the method's state handed on."""
    if tx is None:
        plain = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return lambda: plain(params, *args)
    step = jax.jit(lsam.value_and_grad(loss, tx, has_aux=True))
    state = [tx.init(params)]

    def run() -> Any:
        value, grads, state[0] = step(params, state[0], *args)
        return value, grads

    return run


def print_methods(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what `bench_methods` returned.

    Args:
        report: The report.
        console: Where to; None for standard output.
    """
    settings = report["settings"]
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title=f"Cost of a gradient step: {settings['model']}, batch {settings['batch_size']}, "
        f"{settings['image_size']}x{settings['image_size']}x3",
        caption=f"Relative to the median step of SGD; {settings['rounds']} interleaved steps of "
        "each, with the method's defaults.",
    )
    table.add_column("method")
    for heading in ("mean", "least", "most"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, cost in report["costs"].items():
        table.add_row(name, *(f"{cost[heading]:.2f}" for heading in ("mean", "least", "most")))
    (console or Console()).print(table)
