"""Where to split a scan: its iterations, in their order, in parts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Segment(NamedTuple):
    """Iterations from `start` to `stop`; `inline` if they are to be no scan (one iteration)."""

    start: int
    stop: int
    inline: bool = False


Flags = Sequence[tuple[bool, ...]]
"""For each iteration, which of the rows that it reads depend on the sources."""

Plan = Callable[[Flags, bool], Sequence[Segment]]
"""From the flags, and whether everything depends on the sources anyway, to the parts of a scan."""


def where_it_differs(flags: Flags, begun: bool) -> list[Segment]:
    """A part for each run of iterations with the same flags.

    The first iteration that depends on the sources is inline: what in it does not depend on them
    is to be found by `jaxprs.split`, and a scan would propagate errors to its initial carry.
    """
    length = len(flags)
    first = next((t for t, flag in enumerate(flags) if any(flag)), length)
    if begun or first == length:
        edges, inline = [0], -1
    else:
        edges, inline = sorted({0, first, min(first + 1, length)}), first
    edges += [t for t in range(edges[-1] + 1, length) if flags[t] != flags[t - 1]]
    edges = [t for t in edges if t < length]
    return [Segment(a, b, a == inline) for a, b in zip(edges, [*edges[1:], length])]


def one_by_one(flags: Flags, begun: bool) -> list[Segment]:
    """A scan for each iteration."""
    return [Segment(t, t + 1) for t in range(len(flags))]


def unrolled(flags: Flags, begun: bool) -> list[Segment]:
    """Every iteration inline."""
    return [Segment(t, t + 1, inline=True) for t in range(len(flags))]
