"""The benchmark's report as two tables."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_tables(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what `bench.bench` returned.

    Args:
        report: The report.
        console: Where to; None for standard output.
    """
    console = Console() if console is None else console
    console.print(_costs(report))
    console.print()
    console.print(_programs(report))


def _costs(report: Mapping[str, Any]) -> Table:
    settings, rows = report["settings"], report["rows"]
    table = _table(
        f"Cost of a gradient step relative to SGD: {settings['model']}, batch "
        f"{settings['batch_size']}, {settings['image_size']}x{settings['image_size']}x3",
        f"Median of {settings['repeats']} interleaved rounds. Static cut: by hand for a fixed set, "
        "no shared prefix. Difference: of layer-wise SAM from the textbook mask, relative.",
    )
    table.add_column("perturbed")
    columns = list(next(iter(rows.values()))["costs"])
    for column in columns:
        table.add_column(
            column.replace(" ", "\n", 1).replace("contrib.", "\ncontrib."), justify="right"
        )
    table.add_column("difference", justify="right")
    for title, row in rows.items():
        costs = [f"{row['costs'][column]['ratio']:.2f}" for column in columns]
        table.add_row(title, *costs, f"{row['difference_from_textbook']:.0e}")
    return table


def _programs(report: Mapping[str, Any]) -> Table:
    table = _table(
        "Compiled programs",
        "Compile: trace, lower, compile. Memory: temporary. Both also relative to the textbook "
        "mask's. FLOPs: as XLA counts them (of a conditional: the costliest branch), relative to "
        "SGD's.",
    )
    table.add_column("program")
    for heading in ("compile\n(s)", "", "memory\n(MB)", "", "FLOPs"):
        table.add_column(heading, justify="right")
    for name, program in report["programs"].items():
        table.add_row(
            name,
            f"{program['compile_seconds']:.1f}",
            _text(program["compile_relative_to_textbook"]),
            _text(program["temporary_bytes"], scale=1e-6, digits=1),
            _text(program["temporary_relative_to_textbook"]),
            _text(program["flops_relative_to_sgd"]),
        )
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),  # fits 80 columns
    )


def _text(value: float | None, scale: float = 1.0, digits: int = 2) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"
