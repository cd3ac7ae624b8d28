"""The benchmarks' reports as tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lsam_jax.experiments import tables
from lsam_jax.experiments.bench.catalog import SGD

COUNTS = (
    "Counted: floating-point operations of both passes. Eq. 8, 9: the paper's cost model, which "
    "leaves out the second forward pass."
)


def print_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what a benchmark returned.

    Args:
        report: The report.
        console: Where to; None for standard output.
    """
    console = Console() if console is None else console
    own = [programs(report)] if "programs" in report else []
    for table in (*_TABLES[report["bench"]](report), *own):
        console.print(table)
        console.print()


def methods(report: Mapping[str, Any]) -> list[Table]:
    """A table for each model."""
    settings = report["settings"]
    shown = []
    for model, row in report["rows"].items():
        published = any(step["published"] for step in row["steps"].values())
        caption = (
            f"Relative to SGD, {settings['rounds']} interleaved steps of each: mean over the kinds "
            f"of step that a method takes, and quartiles. {COUNTS}"
        )
        if published:
            caption += " Paper: Lee, KDD 2024, Table 2: training on two RTX A6000."
        columns = ["method", "cost", "quartiles", "images\n/s", "counted", "eq.\n8, 9"]
        table = tables.table(
            *(columns + ["paper:\ncost", "images\n/s"] * published),
            title=f"Cost of a gradient step: {model}, {_size(settings)}",
            caption=caption,
        )
        for label, step in row["steps"].items():
            paper = step["published"] or {}
            cells = [
                _text(step["mean"]),
                _quartiles(step),
                _rate(step["images_per_second"]),
                _text(step["counted"]),
                _text(step["modelled"]),
            ]
            if published:
                cells += [_text(paper.get("ratio")), _rate(paper.get("images_per_second"))]
            table.add_row(label, *cells)
        shown.append(table)
    return shown


def selections(report: Mapping[str, Any]) -> list[Table]:
    """A row for each set of layers."""
    settings, rows = report["settings"], report["rows"]
    columns = [name for name in next(iter(rows.values()))["steps"] if name != SGD]
    table = tables.table(
        *("perturbed", *map(_narrow, columns), "counted", "eq. 8", "differ-\nence"),
        title=f"Cost of a gradient step relative to SGD: {settings['model']}, {_size(settings)}",
        caption=f"Median of {settings['rounds']} interleaved rounds. Static cut: by hand for a "
        "fixed set, no shared prefix. Difference: of layer-wise SAM from the textbook mask, "
        f"relative. {COUNTS}",
    )
    table.columns[0].min_width = 16
    for title, row in rows.items():
        costs = [_text(row["steps"][column]["ratio"]) for column in columns]
        (own,) = (step for step in row["steps"].values() if "counted" in step)
        counts = [_text(own["counted"]), _text(own["modelled"])]
        table.add_row(title, *costs, *counts, f"{row['difference_from_textbook']:.0e}")
    return [table]


def compiled(report: Mapping[str, Any]) -> list[Table]:
    """A table for each network."""
    settings = report["settings"]
    known = {
        "trace\n(x)": ("trace_seconds", None),
        "compile\n(x)": ("compile_seconds", None),
        "memory\n(MB)": ("memory_bytes", 1e-6),
        "(x)": ("memory_bytes", None),
        "condi-\ntionals": ("conditionals", 1.0),
        "hand on\n(MB)": ("handed_bytes", 1e-6),
        "by the\nhost": ("by_host", 1.0),
        "collec-\ntives": ("collectives", 1.0),
        "cycles\n(x plain)": ("cycles", None),
    }
    shown = []
    for network, rows in report["rows"].items():
        columns = {
            heading: column
            for heading, column in known.items()
            if any(row.get(column[0]) for row in rows.values())
        }
        table = tables.table(
            *("method", *columns),
            title=f"{network}, compiled for {settings['devices']} {settings['target']}",
            caption="x: relative to textbook SAM. Memory: of the device, arguments and results "
            "included. Hand on: what conditionals return. By the host: conditionals outside of "
            "CUDA graphs. Collectives: inside conditionals. Cycles: as a TPU's compiler estimates.",
        )
        for method, row in rows.items():
            if "error" in row:
                table.add_row(method, row["error"][:40])
                continue
            cells = []
            for key, scale in columns.values():
                base = rows["plain" if key == "cycles" else "textbook"].get(key)
                is_ratio = scale is None
                shown_as = 1 / base if is_ratio and base else scale or 1.0
                cells.append(_text(row[key], shown_as, 2 if is_ratio else 0))
            table.add_row(method, *cells)
        shown.append(table)
    return shown


def programs(report: Mapping[str, Any]) -> Table:
    """Compile time, memory and FLOPs."""
    found = report["programs"]
    key = "{}_relative_to_textbook"
    compared = all(key.format("compile_seconds") in program for program in found.values())
    columns = [
        ("compile\n(s)", "compile_seconds", 1.0, 1),
        ("temporary\n(MB)", "temporary_bytes", 1e-6, 1),
        ("in all\n(MB)", "total_bytes", 1e-6, 1),
        ("FLOPs", "flops_relative_to_sgd", 1.0, 2),
    ]
    if compared:
        columns.insert(1, ("x", key.format("compile_seconds"), 1.0, 2))
        columns.insert(3, ("x", key.format("temporary_bytes"), 1.0, 2))
    table = tables.table(
        *("program", *(heading for heading, *_ in columns)),
        title="Compiled programs",
        caption="Compile: trace, lower, compile. Temporary memory; and with arguments and results. "
        + "x: relative to the textbook mask's. " * compared
        + "FLOPs: as XLA counts them (of a conditional: the costliest branch), relative to SGD's.",
    )
    for name, program in found.items():
        cells = [_text(program[k], scale, digits) for _, k, scale, digits in columns]
        table.add_row(name, *cells)
    return table


_TABLES = {"methods": methods, "selections": selections, "compiled": compiled}


def _narrow(heading: str) -> str:
    return heading.replace("-", "-\n").replace(" ", "\n", 1).replace("contrib.", "\ncontrib\n.")


def _size(settings: Mapping[str, Any]) -> str:
    side = settings["image_size"]
    return f"batch {settings['batch_size']}, {side}x{side}x3"


def _quartiles(step: Mapping[str, Any]) -> str:
    return f"{step['low']:.2f}-{step['high']:.2f}"


def _text(value: float | None, scale: float = 1.0, digits: int = 2) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"


def _rate(value: float | None) -> str:
    """Images a second, to three digits or the unit."""
    digits = 0 if value is None or value >= 100 else 1 if value >= 10 else 2
    return _text(value, digits=digits)
