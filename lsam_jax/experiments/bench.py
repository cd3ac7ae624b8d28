"""Cost of one gradient step relative to SGD, beside other ways to write it.

Every row of the table is measured with all its columns in turn in one go, see `timing`. The
perturbed layers are forced through the stored norms, so one compiled layer-wise program serves
every set of as many layers.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import environment, output, peers, timing, workload
from lsam_jax.experiments.workload import Size, Workload

SGD, LAYERWISE, STATIC = "SGD", "layer-wise SAM", "static cut"
TEXTBOOK, OPTAX = "textbook mask", "optax.contrib.sam"
COMPILE_ROUNDS = 3
FROZEN = "frozen backbone, 2 dense layers"


@dataclasses.dataclass(frozen=True)
class Settings(Size):
    """What to measure, on what; see `workload.Size`.

    Args:
        repeats: Interleaved rounds for each row.
        gate: Whether weight gradients of unselected layers are skipped at run time; None: by
            platform.
        rho: The radius; it does not change the cost.

    Raises:
        ValueError: When a value makes no sense.
    """

    repeats: int = 7
    gate: bool | None = None
    rho: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(repeats=1)


class Compiled(NamedTuple):
    """A compiled gradient step.

    Attributes:
        run: Of the run-time arguments.
        compile_seconds: To trace, lower and compile.
        temporary_bytes: As XLA reports them; None where it does not.
        flops: As XLA counts them: of a conditional, the costliest branch. None where it does not.
    """

    run: Callable[..., Any]
    compile_seconds: float
    temporary_bytes: int | None
    flops: float | None


def bench(settings: Settings, out: str | Path | None = None) -> dict[str, Any]:
    """Measures everything, and stores it as JSON when asked to.

    Args:
        settings: What to measure.
        out: The JSON file; None stores nothing.

    Returns:
        What the file holds: ``rows`` (costs), ``programs`` (compile time, memory, FLOPs),
        ``settings`` and ``environment``.

    Raises:
        OSError: When `out` cannot be written; found before anything is measured.
    """
    path = None if out is None else output.writable_file(out)
    shape = (settings.model, settings.batch_size, settings.image_size)
    rows, programs = _bench_network(settings, workload.whole_network(*shape))
    frozen_row, frozen_programs = _bench_frozen(settings, workload.frozen_backbone(*shape))
    report = {
        "settings": dataclasses.asdict(settings),
        "rows": {**rows, **frozen_row},
        "programs": {**programs, **frozen_programs},
        "environment": environment.describe(),
    }
    if path is not None:
        output.write_json(path, report)
    return report


def _bench_network(settings: Settings, work: Workload) -> tuple[dict[str, Any], dict[str, Any]]:
    """All forced sets, with the programs that do not depend on the set compiled once."""
    params, args = work.params, work.args
    names = lsam.layer_names(params)
    plain = _compile(peers.sgd(work.loss), params, *args)
    some_mask = jax.tree.map(lambda _: jnp.zeros((), bool), params)
    masked = partial(_compile, peers.textbook(work.loss, settings.rho), params, some_mask, *args)
    textbook = masked()
    whole_sam = _compile(peers.optax_sam(work.loss, settings.rho), params, *args)
    programs = {SGD: plain, TEXTBOOK: textbook, OPTAX: whole_sam}
    again = {
        TEXTBOOK: partial(
            _compile, peers.textbook(work.loss, settings.rho), params, some_mask, *args
        )
    }
    rows = {}
    for title, selected in workload.selections(settings.model).items():
        k = len(selected)
        tx = lsam.layerwise_sam(k=k, rho=settings.rho, gate=settings.gate)
        norms = jnp.asarray([float(name in selected) for name in names])
        state = tx.init(params)._replace(norms=norms)
        layerwise_name = f"{LAYERWISE}, k={k}"
        if layerwise_name not in programs:
            step = peers.layerwise(work.loss, tx)
            again[layerwise_name] = partial(_compile, step, params, state, *args)
            programs[layerwise_name] = again[layerwise_name]()
        static = _compile(peers.static_cut(work.loss, settings.rho, selected), params, *args)
        programs[f"{STATIC}: {title}"] = static
        calls = {
            SGD: _call(plain, params, *args),
            LAYERWISE: _call(programs[layerwise_name], params, state, *args),
            STATIC: _call(static, params, *args),
            TEXTBOOK: _call(textbook, params, _mask(params, selected), *args),
            OPTAX: _call(whole_sam, params, *args),
        }
        rows[title] = _row(calls, settings.repeats)
    # What is compared is compiled more than once, in turn, as everything else that is timed.
    seconds = np.median(timing.interleaved(again, COMPILE_ROUNDS, warmup=0), axis=0)
    for name, median in zip(again, seconds):
        programs[name] = programs[name]._replace(compile_seconds=float(median))
    return rows, _described(programs, plain, programs[TEXTBOOK])


def _bench_frozen(settings: Settings, work: Workload) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head alone is differentiated, and the whole of it perturbed."""
    params, args = work.params, work.args
    names = lsam.layer_names(params)
    tx = lsam.layerwise_sam(k=None, rho=settings.rho, selection="all", gate=settings.gate)
    runtime = {
        SGD: (peers.sgd(work.loss), ()),
        LAYERWISE: (_closed_over(work, tx), (tx.init(params),)),
        STATIC: (peers.static_cut(work.loss, settings.rho, names), ()),
        TEXTBOOK: (peers.textbook(work.loss, settings.rho), (_mask(params, names),)),
        OPTAX: (peers.optax_sam(work.loss, settings.rho), ()),
    }
    compiled = {
        name: _compile(step, params, *extra, *args) for name, (step, extra) in runtime.items()
    }
    calls = {
        name: _call(compiled[name], params, *extra, *args) for name, (_, extra) in runtime.items()
    }
    programs = {f"{name}: {FROZEN}": program for name, program in compiled.items()}
    described = _described(programs, compiled[SGD], compiled[TEXTBOOK])
    return {FROZEN: _row(calls, settings.repeats)}, described


def _closed_over(work: Workload, tx: lsam.SamTransformation) -> peers.Step:
    """Layer-wise SAM with a loss of the head alone, which closes over backbone and batch."""

    def step(params: Any, state: Any, *args: Any) -> Any:
        return lsam.value_and_grad(lambda p: work.loss(p, *args), tx, has_aux=True)(params, state)

    return step


def _compile(step: peers.Step, *args: Any) -> Compiled:
    start = time.perf_counter()
    # A function of its own each time, so that no trace is found in a cache.
    compiled = jax.jit(partial(step)).lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    analysis = compiled.cost_analysis() or {}
    return Compiled(
        run=compiled,
        compile_seconds=seconds,
        temporary_bytes=None if memory is None else memory.temp_size_in_bytes,
        flops=analysis.get("flops"),
    )


def _call(program: Compiled, *args: Any) -> Callable[[], Any]:
    return lambda: program.run(*args)


def _mask(params: Any, selected: tuple[str, ...]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(peers.path_name(path) in selected), params
    )


def _row(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Costs of one set; and how far layer-wise SAM is from the textbook, which must be nothing."""
    seconds = timing.interleaved(calls, repeats)
    costs = {n: c._asdict() for n, c in timing.costs(tuple(calls), seconds).items()}
    error = _relative_difference(calls[LAYERWISE]()[1], calls[TEXTBOOK]()[1])
    return {"costs": costs, "difference_from_textbook": error}


def _relative_difference(value: Any, expected: Any) -> float:
    """Of two gradients, as vectors."""
    difference = jax.tree.map(lambda a, b: np.asarray(a, float) - b, value, expected)
    norm = [
        np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
        for tree in (difference, expected)
    ]
    return float(norm[0] / norm[1])


def _described(
    programs: Mapping[str, Compiled], plain: Compiled, textbook: Compiled
) -> dict[str, Any]:
    return {
        name: {
            "compile_seconds": program.compile_seconds,
            "compile_relative_to_textbook": program.compile_seconds / textbook.compile_seconds,
            "temporary_bytes": program.temporary_bytes,
            "temporary_relative_to_textbook": _ratio(
                program.temporary_bytes, textbook.temporary_bytes
            ),
            "flops": program.flops,
            "flops_relative_to_sgd": _ratio(program.flops, plain.flops),
        }
        for name, program in programs.items()
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None
