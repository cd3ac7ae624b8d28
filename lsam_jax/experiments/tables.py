"""Tables in a terminal, all alike."""

from typing import Any

from rich import box
from rich.table import Table


def table(*headings: str, words: int = 1, **options: Any) -> Table:
    """An empty table, narrow enough for 80 columns.

    Args:
        *headings: Of its columns.
        words: How many of them, from the left, hold words; the others hold numbers.
        **options: Of `rich.table.Table`.
    """
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), **options)
    for number, heading in enumerate(headings):
        if number < words:
            found.add_column(heading, overflow="fold")
        else:
            found.add_column(heading, justify="right", no_wrap=True)
    return found
