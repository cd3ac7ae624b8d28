"""How long XLA compiles a step of each method, on a network of many small arrays.

There a program's length is what its method adds to the network: what looks at all arrays, or is
done to each. The references are a SAM step, and one of the method itself, as one writes them by
hand; these keep no state, such as the norms of layers.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.bench import by_hand

PLAIN, BY_HAND = "plain gradient", "sam by hand"
RADIUS, ALPHA = by_hand.RHO, by_hand.ALPHA
Step = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        layers: Of a tanh network, each a kernel and a bias.
        width: Of its layers, and the size of its batch.
        rounds: How often each step is compiled; in turn, the median counts.

    Raises:
        ValueError: When a value makes no sense.
    """

    layers: int = 200
    width: int = 16
    rounds: int = 3

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")


def bench(settings: Settings, out: str | Path | None = None) -> dict[str, Any]:
    """Compiles every step, and stores the result as JSON when asked to.

    Args:
        settings: What to measure.
        out: The JSON file; None stores nothing.

    Returns:
        What the file holds: for each step medians of the processor time that it takes to trace and
        to compile, and of their ratios to SAM by hand; quartiles of the latter's ratio; that to the
        method's own step by hand;
        ``settings`` and ``environment``.

    Raises:
        OSError: When `out` cannot be written; found before anything is measured.
    """
    path = None if out is None else files.writable_file(out)
    steps = _steps(settings)
    found = np.array(
        [
            [_seconds(step, *arguments) for step, *arguments in steps.values()]
            for _ in range(settings.rounds)
        ]
    )
    seconds = np.median(found, axis=0)
    ratios = found / found[:, list(steps).index(BY_HAND), None]
    low, relative, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    own = {
        name: float(np.median(found[:, n, 1] / found[:, list(steps).index(f"{name} by hand"), 1]))
        for n, name in enumerate(steps)
        if f"{name} by hand" in steps
    }
    report = {
        "bench": "compile",
        "settings": dataclasses.asdict(settings),
        "rows": {
            name: {
                "trace_seconds": float(row[0]),
                "compile_seconds": float(row[1]),
                "trace": float(relative[n, 0]),
                "compile": float(relative[n, 1]),
                "own": own.get(name),
                "low": float(low[n, 1]),
                "high": float(high[n, 1]),
            }
            for n, (name, row) in enumerate(zip(steps, seconds, strict=True))
        },
        "environment": environment.describe(),
    }
    if path is not None:
        files.write_json(path, report)
    return report


def methods() -> dict[str, lsam.SamTransformation]:
    """Those with two full gradients in every step, and others for comparison."""
    return {
        "sam": lsam.sam(RADIUS),
        "generalized_sam": lsam.generalized_sam(RADIUS, ALPHA),
        "generalized_sam, by layer": lsam.generalized_sam(RADIUS, ALPHA, normalize="layer"),
        "layerwise_sam, all": lsam.layerwise_sam(None, RADIUS, selection="all"),
        "asam": lsam.asam(RADIUS),
        "gsam": lsam.gsam(RADIUS, ALPHA),
        "stable_sam": lsam.stable_sam(RADIUS),
        "functional_sam": lsam.functional_sam(RADIUS),
        "sparse_sam": lsam.sparse_sam(RADIUS),
        "ae_sam": lsam.ae_sam(RADIUS),
        "momentum_sam": lsam.momentum_sam(RADIUS),
        "sam, stale": lsam.with_parts(lsam.sam(RADIUS), ascent=lsam.stale()),
        "sam, in a window": lsam.with_parts(lsam.sam(RADIUS), when=lsam.between(1, 2)),
        "look_sam": lsam.look_sam(RADIUS),
        "gam": lsam.gam(RADIUS),
    }


def _steps(settings: Settings) -> Mapping[str, tuple[Step, *tuple[Any, ...]]]:
    """Each step and its arguments."""
    shape = (settings.width, settings.width)
    layer = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(settings.width)}
    params, batch = [layer] * settings.layers, jnp.ones(shape)
    loss = lsam.split_loss(_outputs, lambda outputs, batch: jnp.mean(outputs**2))
    found: dict[str, Any] = {
        PLAIN: (jax.value_and_grad(loss), params, batch),
    }
    for name, step in by_hand.STEPS.items():
        found[f"{name} by hand"] = functools.partial(step, loss), params, batch
    for name, tx in methods().items():
        found[name] = lsam.value_and_grad(loss, tx), params, tx.init(params), batch
    return found


def _outputs(params: Any, x: jax.Array) -> jax.Array:
    for layer in params:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x


def _seconds(step: Step, *arguments: Any) -> tuple[float, float]:
    """Of processor time: to trace and lower, and to compile; the machine may do other things."""
    start = time.process_time()
    lowered = jax.jit(functools.partial(step)).lower(*arguments)
    traced = time.process_time()
    lowered.compile()
    return traced - start, time.process_time() - traced
