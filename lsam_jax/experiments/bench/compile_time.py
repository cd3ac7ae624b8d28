"""How long XLA compiles a step of each method, on a network of many small arrays.

There a program's length is what its method adds to the network: what looks at all arrays, or is
done to each. The reference is a SAM step as one writes it by hand.
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
from lsam_jax.experiments import environment, output

PLAIN, BY_HAND = "plain gradient", "SAM by hand"
RADIUS = 0.1
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
        to compile, and of their ratios to SAM by hand; quartiles of the latter's ratio;
        ``settings`` and ``environment``.

    Raises:
        OSError: When `out` cannot be written; found before anything is measured.
    """
    path = None if out is None else output.writable_file(out)
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
    report = {
        "bench": "compile",
        "settings": dataclasses.asdict(settings),
        "rows": {
            name: {
                "trace_seconds": float(row[0]),
                "compile_seconds": float(row[1]),
                "trace": float(relative[n, 0]),
                "compile": float(relative[n, 1]),
                "low": float(low[n, 1]),
                "high": float(high[n, 1]),
            }
            for n, (name, row) in enumerate(zip(steps, seconds, strict=True))
        },
        "environment": environment.describe(),
    }
    if path is not None:
        output.write_json(path, report)
    return report


def methods() -> dict[str, lsam.SamTransformation]:
    """Those with two full gradients in every step, and others for comparison."""
    return {
        "sam": lsam.sam(RADIUS),
        "generalized_sam": lsam.generalized_sam(RADIUS),
        "generalized_sam, by layer": lsam.generalized_sam(RADIUS, normalize="layer"),
        "layerwise_sam, all": lsam.layerwise_sam(None, RADIUS, selection="all"),
        "asam": lsam.asam(RADIUS),
        "gsam": lsam.gsam(RADIUS),
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
        BY_HAND: (functools.partial(_by_hand, loss), params, batch),
    }
    for name, tx in methods().items():
        found[name] = lsam.value_and_grad(loss, tx), params, tx.init(params), batch
    return found


def _outputs(params: Any, x: jax.Array) -> jax.Array:
    for layer in params:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x


def _by_hand(loss: Step, params: Any, batch: jax.Array) -> Any:
    value, g = jax.value_and_grad(loss)(params, batch)
    norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(g)))
    there = jax.tree.map(lambda w, d: w + RADIUS * d / norm, params, g)
    return value, jax.grad(loss)(there, batch)


def _seconds(step: Step, *arguments: Any) -> tuple[float, float]:
    """Of processor time: to trace and lower, and to compile; the machine may do other things."""
    start = time.process_time()
    lowered = jax.jit(functools.partial(step)).lower(*arguments)
    traced = time.process_time()
    lowered.compile()
    return traced - start, time.process_time() - traced
