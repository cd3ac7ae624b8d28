"""What ``sharpness.json`` must hold, for those who read it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def lacking(found: Mapping[str, Any], layers: Sequence[str]) -> list[str]:
    """What a file of a network with these layers lacks: tables, and numbers of those it has.

    Example:
        >>> file = {"rho": 0.05, "train_loss": 1.0, "ball": {"rise": 0.1}, "trace": {"mean": 2.0}}
        >>> lacking({**file, "top_eigenvalue": None}, ["a"])  # which was not finite
        ['trace.standard_error', 'layers']
    """
    of_layer = dict.fromkeys(("top_eigenvalue", "ball_rise"))
    wanted = {
        **dict.fromkeys(("rho", "train_loss", "top_eigenvalue")),
        "ball": {"rise": None},
        "trace": dict.fromkeys(("mean", "standard_error")),
        "layers": dict.fromkeys(layers, of_layer),
    }
    return list(_lacking(found, wanted))


def _lacking(found: Mapping[str, Any], wanted: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for name, within in wanted.items():
        there = found.get(name, "")
        if within is not None and isinstance(there, dict):
            yield from _lacking(there, within, f"{place}{name}.")
        elif within is not None or not isinstance(there, int | float | None):
            yield place + name
