"""What compilers make of a step, for devices that need not be there."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lsam_jax.experiments.bench import compile_one, hlo, targets
from lsam_jax.experiments.bench.workload import Size

POLL = 0.2
"""Seconds between two looks at what a compiler has written."""


@dataclasses.dataclass(frozen=True)
class Settings(Size):
    """What to compile, for what; see `workload.Size`.

    Args:
        target: Of `targets.TARGETS`.
        networks: Of `registry.ARCHITECTURES`, or "gpt-scanned".
        methods: Of `compile_one.METHODS`; a plain gradient and the textbook's SAM are there always.
        devices: Among which a batch is shared out.
        whole: Whether a TPU's program is compiled to its end, which takes minutes and estimates
            cycles; what else is reported is there after seconds.

    Raises:
        ValueError: When a value makes no sense.
    """

    target: str = "cpu"
    networks: tuple[str, ...] = ("resnet20", compile_one.GPT)
    methods: tuple[str, ...] = ()
    devices: int = 1
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        targets.check(self.target)
        if os.name == "nt":
            raise OSError(
                "bench compiled needs the processor time of its compilers, which Windows does not "
                "tell: run it on Linux or macOS"
            )
        for network in self.networks:
            compile_one.check_network(network)
        for method in self.methods:
            if method not in compile_one.METHODS:
                known = ", ".join(compile_one.METHODS)
                raise ValueError(f"method={method!r} is not known; choose from {known}")

    @property
    def chosen(self) -> list[str]:
        """The methods, those that others are compared with first."""
        wanted = {"plain", "textbook", *(self.methods or compile_one.METHODS)}
        return [name for name in compile_one.METHODS if name in wanted]


def bench(settings: Settings) -> dict[str, Any]:
    """Compiles every program, one after the other, each in a process of its own.

    Returns:
        ``rows``, by network and method: see `hlo.Compiled`, and seconds of the processor to trace
        and lower, and to compile; or ``error``, what a compiler said that failed.
    """
    return {
        "rows": {
            network: {method: _row(settings, network, method) for method in settings.chosen}
            for network in settings.networks
        }
    }


def _row(settings: Settings, network: str, method: str) -> dict[str, Any]:
    what = dataclasses.asdict(settings) | {"network": network, "method": method}
    stops = targets.TARGETS[settings.target].stops and not settings.whole
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = os.times()
        with (folder / "log").open("w") as log:
            command = [sys.executable, "-m", compile_one.__name__, json.dumps(what), name]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            while process.poll() is None and not (stops and hlo.is_there(folder)):
                time.sleep(POLL)
            if process.returncode is None:
                time.sleep(POLL)  # for the rest of a file
                process.kill()
            process.wait()
        if not hlo.is_there(folder) or not (stops or process.returncode == 0):
            lines = (folder / "log").read_text().strip().splitlines()
            return {"error": lines[-1] if lines else "the compiler ended and said nothing"}
        after = os.times()
        traced = json.loads((folder / "traced.json").read_text())
        spent = sum(after[2:4]) - sum(before[2:4])  # of children
        whole = folder / "compiled.txt"
        found = hlo.read(folder, whole.read_text() if whole.exists() else None)
        return {
            "trace_seconds": traced["trace_seconds"],
            "compile_seconds": spent - traced["processor"],
            **found._asdict(),
        }
