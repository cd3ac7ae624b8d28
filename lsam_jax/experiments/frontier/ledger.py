"""The runs of a regime that are there, one JSON line each."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Key(NamedTuple):
    """What tells a run from the others of its regime.

    Attributes:
        contender: Its name.
        rho: The radius; None where there is none to choose.
        seed: Of the run.
        tuning: Whether it was seen by held-out training images instead of the test images.
    """

    contender: str
    rho: float | None
    seed: int
    tuning: bool


class Ledger:
    """A file of finished runs; a run is in it whole or not at all.

    Args:
        file: It is made with the first run.

    Raises:
        ValueError: When the file holds something else.
    """

    def __init__(self, file: Path):
        self.file = file
        self._rows: dict[Key, dict[str, Any]] = {}
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self._rows[Key(*(row[name] for name in Key._fields))] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {str(file)!r} is not a run of the frontier: delete it if "
                    "it is the broken rest of one, or choose another --out"
                ) from error

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def check(self, key: Key, config: str) -> None:
        """Raises unless a run is of the configuration of this digest.

        Raises:
            ValueError: When it is of another.
        """
        found = self._rows[key]["config"]
        if found != config:
            raise ValueError(
                f"{str(self.file)!r} has a run of {key.contender} (rho={key.rho}, seed={key.seed}) "
                f"by another configuration ({found} instead of {config}): choose another --out"
            )

    def add(self, key: Key, result: dict[str, Any]) -> None:
        """Adds a run, on the disk before it counts."""
        row = {**key._asdict(), **result}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, allow_nan=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self._rows[key] = row

    def tuned_radii(self, contender: str) -> list[float]:
        """Those that were tried, rising."""
        mine = (key.rho for key in self._rows if key.contender == contender and key.tuning)
        return sorted({rho for rho in mine if rho is not None})

    def mean_tuned(
        self, contender: str, rho: float, seeds: Sequence[int], name: str = "accuracy"
    ) -> float:
        """Mean over the tuning runs of a radius; of what was noted after each epoch, the last.

        Raises:
            KeyError: When a run is missing.
        """
        found = [self._rows[Key(contender, rho, seed, True)].get(name, 0.0) for seed in seeds]
        return float(np.mean([x[-1] if isinstance(x, list) else x for x in found]))

    def finals(self, contender: str, name: str = "accuracy") -> dict[int, Any]:
        """A number of the final runs, by seed."""
        return {
            key.seed: row[name]
            for key, row in self._rows.items()
            if key.contender == contender and not key.tuning
        }
