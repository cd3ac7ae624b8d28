"""Tables for `print` and for `rich.print`."""

from collections.abc import Collection, Sequence
from typing import Any


def text_lines(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int]
) -> list[str]:
    """The lines of a table, the columns at the places `right` being numbers.

    >>> from lsam_jax.text_table import text_lines
    >>> text_lines(("layer", "cost"), [("w", "1.5"), ("bias", "10.0")], right={1})
    ['layer  cost', 'w       1.5', 'bias   10.0']
    """
    table = [header, *rows]
    width = [max(map(len, column)) for column in zip(*table)]
    return [
        "  ".join(
            cell.rjust(w) if n in right else cell.ljust(w)
            for n, (cell, w) in enumerate(zip(row, width))
        ).rstrip()
        for row in table
    ]


def rich_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int], caption: str
) -> Any:
    """The same for `rich.print`."""
    from rich.table import Table  # noqa: PLC0415 - the core works without rich

    table = Table(caption=caption)
    for n, name in enumerate(header):
        table.add_column(name, justify="right" if n in right else "left")
    for row in rows:
        table.add_row(*row)
    return table
