"""What every benchmark times: a gradient step, compiled once, and run in turn with others.

The first step of a comparison is the one that the others are relative to, SGD. Steps that perturbed
the same layers are one kind, see `timing`.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lsam_jax.experiments.bench import timing
from lsam_jax.experiments.bench.workload import Workload


class Timed(NamedTuple):
    """One way to write a gradient step.

    Attributes:
        step: ``(params, *own, *args) -> (value, gradient, ...)``; a third result is the method's
            state.
        own: The run-time arguments that are its own: a state, a mask.
        carries: Whether the state that comes back is that of the next call; otherwise every call
            is the same.
    """

    step: Callable[..., Any]
    own: tuple[Any, ...] = ()
    carries: bool = False


class CompiledStep(NamedTuple):
    """A compiled gradient step.

    Attributes:
        run: Of the run-time arguments.
        compile_seconds: To trace, lower and compile.
        temporary_bytes: As XLA reports them; None where it does not.
        total_bytes: Of arguments, results and what is temporary: what must be there at once.
        flops: As XLA counts them: of a conditional the costliest branch, of a loop one pass. None
            where it does not.
    """

    run: Callable[..., Any]
    compile_seconds: float
    temporary_bytes: int | None
    total_bytes: int | None
    flops: float | None


class Call:
    """A compiled step on its arguments; remembers which layers it perturbed.

    Args:
        program: Compiled.
        timed: What it was compiled from.
        work: What it differentiates.
    """

    def __init__(self, program: CompiledStep, timed: Timed, work: Workload):
        self.program = program
        self._own = timed.own
        self._carries = timed.carries
        self._work = work
        self._selected: list[jax.Array] = []

    def __call__(self) -> Any:
        """One step."""
        result = self.program.run(self._work.params, *self._own, *self._work.args)
        if len(result) > 2:
            self._selected.append(result[2].selected)
        if self._carries:
            self._own = (result[2],)
        return result

    def selected(self, steps: int) -> np.ndarray:
        """bool[steps, L]: of the last steps; L is 0 where nothing says what was perturbed."""
        if not self._selected:
            return np.zeros((steps, 0), bool)
        return np.stack([np.asarray(row) for row in self._selected[-steps:]])


def compile_step(step: Callable[..., Any], *args: Any) -> CompiledStep:
    """Compiles a step, whatever was compiled before."""
    start = time.perf_counter()
    # A function of its own each time, so that no trace is found in a cache.
    compiled = jax.jit(partial(step)).lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return CompiledStep(
        run=compiled,
        compile_seconds=seconds,
        temporary_bytes=getattr(memory, "temp_size_in_bytes", None),
        total_bytes=_total_bytes(memory),
        flops=(compiled.cost_analysis() or {}).get("flops"),
    )


def _total_bytes(memory: Any) -> int | None:
    # XLA's own `peak_memory_in_bytes` leaves out what is temporary on a CPU.
    if memory is None:
        return None
    parts = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    return int(sum(parts) - memory.alias_size_in_bytes)


def prepare(
    steps: Mapping[str, Timed],
    work: Workload,
    compiled: dict[Callable[..., Any], CompiledStep] | None = None,
) -> dict[str, Call]:
    """Compiles what is not compiled yet.

    Args:
        steps: By name.
        work: What they differentiate.
        compiled: By step, to be shared by comparisons on the same work; filled in.
    """
    compiled = {} if compiled is None else compiled
    for timed in steps.values():
        if timed.step not in compiled:
            compiled[timed.step] = compile_step(timed.step, work.params, *timed.own, *work.args)
    return {name: Call(compiled[timed.step], timed, work) for name, timed in steps.items()}


def measure(calls: Mapping[str, Call], rounds: int) -> dict[str, timing.Cost]:
    """Times compiled steps in turn, after a round that is not timed.

    Args:
        calls: The first is the one that costs are relative to.
        rounds: Steps of each.
    """
    seconds = timing.interleaved(calls.values(), rounds)
    kinds = [timing.kinds_of(call.selected(rounds)) for call in calls.values()]
    return timing.costs(tuple(calls), seconds, kinds)


def described(
    programs: Mapping[str, CompiledStep], first: CompiledStep, textbook: CompiledStep | None = None
) -> dict[str, Any]:
    """What the compiler says of programs, for JSON.

    Args:
        programs: By name.
        first: The one that FLOPs are relative to: SGD's.
        textbook: The one that compile time and memory are relative to, if there is one.
    """
    found = {}
    for name, program in programs.items():
        said = {key: value for key, value in program._asdict().items() if key != "run"}
        said["flops_relative_to_sgd"] = relative(program.flops, first.flops)
        for key in ("compile_seconds", "temporary_bytes") if textbook is not None else ():
            said[f"{key}_relative_to_textbook"] = relative(said[key], getattr(textbook, key))
        found[name] = said
    return found


def relative(value: float | None, reference: float | None) -> float | None:
    """Their ratio, where both are known."""
    return value / reference if value is not None and reference else None
