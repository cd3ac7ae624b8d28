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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import lsam_jax as lsam
from lsam_jax.experiments.bench import baselines, scanned_gpt, targets, workload
from lsam_jax.experiments.models import registry

GPT = "gpt-scanned"
LARGE = scanned_gpt.Shape(width=768, heads=12, tokens=512, batch=4, words=8192)
RHO, K = 0.1, 4


class Loss(NamedTuple):
    """What is differentiated, by the shapes of its arguments.

    Attributes:
        loss_fn: ``loss_fn(params, *args) -> (loss, aux)``.
        params: Shapes of what is trained.
        args: Of what else it reads.
        batch: Examples in a batch, the first axis of those arguments that hold some.
        layers: How the parameters are cut into layers.
    """

    loss_fn: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]
    batch: int
    layers: Any = "array"


def loss_of(network: str, size: workload.Size) -> Loss:
    """A network of `registry.ARCHITECTURES` on images, or the scanned transformer."""
    if network == GPT:
        shape = LARGE
        run = partial(jax.lax.scan, scanned_gpt.block(shape))
        loss = scanned_gpt.loss_with(run)
        words = jax.ShapeDtypeStruct((shape.batch, shape.tokens), jnp.int32)
        params = jax.eval_shape(partial(scanned_gpt.parameters, shape), jax.random.key(0))
        layers = lsam.stacked("blocks", layers="slice")
        with_aux = lambda *args: (loss(*args), None)  # noqa: E731
        return Loss(with_aux, params, (words, words), shape.batch, layers)
    work = workload.whole_network(network, size)
    params, args = jax.tree.map(_shape, (work.params, work.args))
    return Loss(work.loss, params, args, size.batch_size)


def check_network(name: str) -> None:
    """Raises a ValueError if `loss_of` does not know the network."""
    if name != GPT:
        registry.preset(name)


def _layerwise(loss: Loss, k: int | None = K, **options: Any) -> lsam.SamTransformation:
    return lsam.layerwise_sam(k, RHO, normalize=True, layers=loss.layers, **options)


def _last_two(loss: Loss) -> list[str]:
    found = lsam.inspect(loss.loss_fn, loss.params, *loss.args, has_aux=True, layers=loss.layers)
    return [layer.name for layer in found.layers[-2:]]


METHODS: dict[str, Callable[[Loss], lsam.SamTransformation] | None] = {
    "plain": None,
    "textbook": None,
    "sam": lambda _: lsam.sam(RHO),
    "layer-wise": _layerwise,
    "conditionals": lambda loss: _layerwise(loss, cuts=12, gate=True),
    "one cut": lambda loss: _layerwise(loss, cuts=1, gate=False),
    "last two": lambda loss: _layerwise(loss, k=None, selection=_last_two(loss)),
    "stale": lambda _: lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale()),
}
"""What is compiled, by name: a plain gradient, SAM by hand with a mask, and this library."""


def step_of(name: str, loss: Loss) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A step of `METHODS`, and the shapes of its arguments."""
    make = METHODS[name]
    if make is not None:
        tx = make(loss)
        step = lsam.value_and_grad(loss.loss_fn, tx, has_aux=True)
        return step, (loss.params, jax.eval_shape(tx.init, loss.params), *loss.args)
    if name == "plain":
        return jax.value_and_grad(loss.loss_fn, has_aux=True), (loss.params, *loss.args)
    textbook = baselines.normalized_textbook(loss.loss_fn, RHO)
    return textbook, (loss.params, loss.params, *loss.args)


def main(settings: dict[str, Any], folder: Path) -> None:
    """Traces and compiles."""
    size = workload.Size(settings["batch_size"], settings["image_size"])
    loss = loss_of(settings["network"], size)
    step, args = step_of(settings["method"], loss)
    mesh = targets.mesh(settings["target"], settings["devices"])
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(targets.AXIS))
    count = len(loss.args)
    of_args = jax.tree.map(lambda x: rows if x.shape[:1] == (loss.batch,) else whole, args[-count:])
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


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
