"""Compiles one program for a target, in a process of its own.

``python -m lsam_jax.experiments.bench.compile_one SETTINGS FOLDER`` writes what XLA dumps, and
``traced.json`` before it compiles, ``compiled.txt`` at the end. The settings are JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import lsam_jax as lsam
from lsam_jax.experiments.bench import baselines, scanned_gpt, targets, workload
from lsam_jax.experiments.bench.workload import Workload
from lsam_jax.experiments.distributed import devices
from lsam_jax.experiments.models import registry

GPT = "gpt-scanned"
LARGE = scanned_gpt.Shape(width=768, heads=12, tokens=512, batch=4, words=8192)
RHO, K = 0.1, 4


def work_of(network: str, size: workload.Size) -> Workload:
    """A network of `registry.ARCHITECTURES` on images, or the scanned transformer, by shapes."""
    if network == GPT:
        shape = LARGE
        run = partial(jax.lax.scan, scanned_gpt.block(shape))
        loss = scanned_gpt.loss_with(run)
        words = jax.ShapeDtypeStruct((shape.batch, shape.tokens), jnp.int32)
        params = jax.eval_shape(partial(scanned_gpt.parameters, shape), jax.random.key(0))
        layers = lsam.stacked("blocks", layers="slice")
        with_aux = lambda *args: (loss(*args), None)  # noqa: E731
        return Workload(with_aux, params, (words, words), shape.batch, layers=layers)
    work = workload.whole_network(network, size)
    params, args = jax.eval_shape(lambda: (work.params, work.args))
    return work._replace(params=params, args=args)


def check_network(name: str) -> None:
    """Raises a ValueError if `work_of` does not know the network."""
    if name != GPT:
        registry.preset(name)


def _layerwise(work: Workload, k: int | None = K, **options: Any) -> lsam.SamTransformation:
    return lsam.layerwise_sam(k, RHO, normalize=True, layers=work.layers, **options)


def _last_two(work: Workload) -> list[str]:
    found = lsam.inspect(work.loss, work.params, *work.args, has_aux=True, layers=work.layers)
    return [layer.name for layer in found.layers[-2:]]


METHODS: dict[str, Callable[[Workload], lsam.SamTransformation] | None] = {
    "plain": None,
    "textbook": None,
    "sam": lambda _: lsam.sam(RHO),
    "layer-wise": _layerwise,
    "conditionals": lambda work: _layerwise(work, cuts=12, gate=True),
    "one cut": lambda work: _layerwise(work, cuts=1, gate=False),
    "last two": lambda work: _layerwise(work, k=None, selection=_last_two(work)),
    "stale": lambda _: lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale()),
}
"""What is compiled, by name: a plain gradient, SAM by hand with a mask, and this library."""


def step_of(name: str, work: Workload) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A step of `METHODS`, and the shapes of its arguments."""
    make = METHODS[name]
    if make is not None:
        tx = make(work)
        step = lsam.value_and_grad(work.loss, tx, has_aux=True)
        return step, (work.params, jax.eval_shape(tx.init, work.params), *work.args)
    if name == "plain":
        return jax.value_and_grad(work.loss, has_aux=True), (work.params, *work.args)
    textbook = baselines.textbook(work.loss, RHO, normalize=True)
    return textbook, (work.params, work.params, *work.args)


def main(settings: dict[str, Any], folder: Path) -> None:
    """Traces and compiles."""
    devices.emulate(settings["devices"], 1)  # for a CPU
    size = workload.Size(settings["batch_size"], settings["image_size"])
    work = work_of(settings["network"], size)
    step, args = step_of(settings["method"], work)
    mesh = targets.mesh(settings["target"], settings["devices"])
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(targets.AXIS))
    count, batch = len(work.args), (work.batch_size,)
    of_args = jax.tree.map(lambda x: rows if x.shape[:1] == batch else whole, args[-count:])
    others = jax.tree.map(lambda _: whole, args[:-count])
    began = time.process_time()
    traced = jax.jit(step, in_shardings=(*others, *of_args), out_shardings=whole).lower(*args)
    done = time.process_time()
    seconds = {"trace_seconds": done - began, "processor": done}
    (folder / "traced.json").write_text(json.dumps(seconds))
    compiled = traced.compile(
        compiler_options={"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    )
    (folder / "compiled.txt").write_text(compiled.as_text() or "")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
