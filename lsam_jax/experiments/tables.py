"""Tables in a terminal, all alike."""

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def empty(**options: Any) -> Table:
    """A table narrow enough for 80 columns; options are those of `rich.table.Table`."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), **options)


def show(*shown: Any) -> None:
    """Prints to standard output what rich can print."""
    for one in shown:
        Console().print(one)


def table(
    heading: str,
    rows: Mapping[str, Any],
    columns: Mapping[str, Callable[[Any], str]],
    words: int = 1,
    **options: Any,
) -> Table:
    """A row for each name.

    Args:
        heading: Of the names.
        rows: What each row is about.
        columns: The other headings, to the text of a row.
        words: How many columns, from the left, hold words; the others hold numbers.
        **options: Of `rich.table.Table`.
    """
    found = empty(**options)
    for number, title in enumerate((heading, *columns)):
        if number < words:
            found.add_column(title, overflow="fold")
        else:
            found.add_column(title, justify="right", no_wrap=True)
    for name, row in rows.items():
        found.add_row(*(escape(text) for text in (name, *(cell(row) for cell in columns.values()))))
    return found
