"""Where to split a scan: its iterations, in their order, in parts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

JOINS = frozenset({"concatenate", "stack"})
"""What joins arrays; `jnp.stack` is one or the other, by version of JAX."""

KEEP_ROWS = frozenset(
    {"convert_element_type", "reduce_precision", "copy", "mul", "div", "neg", "reshard"}
)
"""What is often done to weights before a scan, element by element."""


class Segment(NamedTuple):
    """Iterations from `start` to `stop`; `inline` if they are to be no scan (one iteration)."""

    start: int
    stop: int
    inline: bool = False


class Entry(NamedTuple):
    """What an iteration reads of one row.

    Attributes:
      piece: which of the arrays that the row is joined from.
      late: whether it depends on the sources.
    """

    piece: int
    late: bool


Entries = Sequence[tuple[Entry, ...]]
"""For each iteration, what it reads of each row."""

Plan = Callable[[Entries, bool], Sequence[Segment]]
"""From the entries, and whether everything depends on the sources anyway, to a scan's parts."""


def where_it_differs(entries: Entries, begun: bool) -> list[Segment]:
    """A part for each run of iterations that depend on the sources in the same way.

    The first iteration that depends on the sources is inline: what in it does not depend on them
    is to be found by `effects.split`, and a scan would propagate errors to its initial carry.
    """
    flags = [[entry.late for entry in reads] for reads in entries]
    length = len(flags)
    first = next((t for t, flag in enumerate(flags) if any(flag)), length)
    if begun or first == length:
        edges, inline = [0], -1
    else:
        edges, inline = sorted({0, first, min(first + 1, length)}), first
    edges += [t for t in range(edges[-1] + 1, length) if flags[t] != flags[t - 1]]
    edges = [t for t in edges if t < length]
    return [Segment(a, b, a == inline) for a, b in zip(edges, [*edges[1:], length])]


def by_layer(entries: Entries, begun: bool) -> list[Segment]:
    """A scan for each run of iterations that read the same arrays, of one iteration if stacked."""
    pieces = [[entry.piece for entry in reads] for reads in entries]
    edges = [t for t in range(len(pieces)) if not t or pieces[t] != pieces[t - 1]]
    return [Segment(a, b) for a, b in zip(edges, [*edges[1:], len(pieces)])]


def unrolled(entries: Entries, begun: bool) -> list[Segment]:
    """The same, but no scan for what is one iteration."""
    parts = by_layer(entries, begun)
    return [part._replace(inline=part.stop - part.start == 1) for part in parts]
