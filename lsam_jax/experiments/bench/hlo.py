"""What a compiler wrote of a program: its conditionals, memory and cycles."""

import math
import re
from pathlib import Path
from typing import NamedTuple

OPTIMISED = "*after_optimizations.txt"
MEMORY = "*after_optimizations-memory-usage-report.txt"
THUNKS = "*thunk_sequence_after_thunk_passes.txt"
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
BITS = {"pred": 8, "bf16": 16}


class Compiled(NamedTuple):
    """A program as XLA dumped it.

    Attributes:
        memory_bytes: Of the device's main memory, arguments and results included.
        conditionals: How many there are.
        handed_bytes: What all conditionals return.
        collectives: How many stand inside conditionals.
        by_host: Conditionals that a GPU leaves to the host; None on others.
        cycles: Estimated by a TPU's compiler, conditionals at their dearest; None on others, with
            a loop whose length is not known, and where the program was not compiled whole.
    """

    memory_bytes: int
    conditionals: int
    handed_bytes: int
    collectives: int
    by_host: int | None
    cycles: int | None


def is_there(dump: Path) -> bool:
    """Whether a compiler has written what `read` wants, though it may not have finished."""
    return any(dump.glob(MEMORY)) and any(dump.glob(OPTIMISED))


def read(dump: Path, whole: str | None = None) -> Compiled:
    """Reads what was dumped.

    Args:
        dump: The folder, of one program.
        whole: The text of the compiled program, with estimates of cycles.
    """
    text = _largest(dump, OPTIMISED)
    found = re.search(r"Total bytes: (\d+)", _largest(dump, MEMORY))
    thunks = _largest(dump, THUNKS)
    computations = _computations(text)
    results = re.findall(r"= (\(.*?\)|\S+) conditional\(", text)
    return Compiled(
        memory_bytes=int(found[1]) if found else 0,
        conditionals=len(results),
        handed_bytes=sum(map(_bytes, results)),
        collectives=_collectives_inside(computations),
        by_host=_by_host(thunks) if thunks else None,
        cycles=None if whole is None else _cycles(whole),
    )


def _largest(dump: Path, pattern: str) -> str:
    """The text of the largest file: small ones are of what JAX runs beside the program."""
    files = sorted(dump.glob(pattern), key=lambda file: file.stat().st_size)
    return files[-1].read_text() if files else ""


def _bytes(shape: str) -> int:
    """Of an array or a tuple of arrays, as HLO writes its type."""
    total = 0.0
    for kind, bits, sizes in re.findall(r"\b(pred|bf|[fsuc])(\d*)\[([\d,]*)\]", shape):
        count = math.prod(int(size) for size in sizes.split(",") if size)
        total += count * BITS.get(kind + bits, int(bits or 8)) / 8
    return int(total)


def _computations(text: str) -> dict[str, str]:
    """The computations of a program by name."""
    return dict(re.findall(r"^(?:ENTRY )?%?(\S+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))


def _branches(body: str) -> list[str]:
    found = re.findall(r"(?:true|false)_computation=%?([^\s,]+)", body)
    several = re.findall(r"branch_computations=\{([^}]*)\}", body)
    return [*found, *(name.strip().lstrip("%") for names in several for name in names.split(","))]


def _collectives_inside(computations: dict[str, str]) -> int:
    """Those in branches, and in what these call; each once, however deep it stands."""
    todo = [name for body in computations.values() for name in _branches(body)]
    inside: dict[str, str] = {}
    while todo:
        name = todo.pop()
        if name not in inside:
            inside[name] = body = computations.get(name, "")
            todo += re.findall(r"(?:calls|to_apply|body|condition)=%?([^\s,]+)", body)
    found = (re.findall(rf" (?:{COLLECTIVES})(?:-start)?\(", body) for body in inside.values())
    return sum(map(len, found))


def _by_host(thunks: str) -> int:
    """Conditionals outside of CUDA graphs: those under no command buffer, by indentation."""
    found, graph = 0, math.inf
    for line in thunks.splitlines():
        indent = len(line) - len(line.lstrip())
        graph = math.inf if indent <= graph else graph
        if "kCommandBuffer" in line:
            graph = indent
        found += "kConditional" in line and graph == math.inf
    return found


def _cycles(text: str) -> int | None:
    """Of a run that takes the dearest branches; None with a loop whose length is not known."""
    computations = _computations(text)
    entry = re.search(r"^ENTRY %?(\S+) ", text, re.M)
    if entry is None or "estimated_cycles" not in text:
        return None

    def of(name: str) -> float:
        body = computations.get(name, "")
        own = float(sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', body))))
        for line in body.splitlines():
            if " conditional(" in line:
                own += max(map(of, _branches(line)))
            elif " while(" in line:
                times = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                repeated = sum(map(of, re.findall(r"body=%?([^\s,]+)", line)))
                own += (int(times[1]) if times else math.inf) * repeated
        return own

    cycles = of(entry[1])
    return int(cycles) if math.isfinite(cycles) else None
