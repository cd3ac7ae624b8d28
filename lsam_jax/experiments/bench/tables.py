"""The benchmarks' reports as tables."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.table import Table

from lsam_jax.experiments.bench.catalog import SGD
from lsam_jax.experiments.tables import table

COUNTS = (
    "Counted: floating-point operations of both passes. Eq. 8, 9: the paper's cost model, which "
    "leaves out the second forward pass."
)


def of(report: Mapping[str, Any]) -> list[Table]:
    """All tables of what a benchmark returned."""
    own = [programs(report)] if "programs" in report else []
    return [*_TABLES[report["bench"]](report), *own]


def methods(report: Mapping[str, Any]) -> list[Table]:
    """A table for each model."""
    settings = report["settings"]
    shown = []
    for model, row in report["rows"].items():
        caption = (
            f"Relative to SGD, {settings['rounds']} interleaved steps of each: mean over the kinds "
            f"of step that a method takes, and quartiles. {COUNTS}"
        )
        columns: dict[str, Callable[[Any], str]] = {
            "cost": lambda step: _text(step["mean"]),
            "quartiles": lambda step: f"{step['low']:.2f}-{step['high']:.2f}",
            "images\n/s": lambda step: _rate(step["images_per_second"]),
            "counted": lambda step: _text(step["counted"]),
            "eq.\n8, 9": lambda step: _text(step["modelled"]),
        }
        if any(step["published"] for step in row["steps"].values()):
            caption += " Paper: Lee, KDD 2024, Table 2: training on two RTX A6000."
            columns |= {
                "paper:\ncost": lambda step: _text((step["published"] or {}).get("ratio")),
                "paper:\nimages\n/s": lambda step: _rate(
                    (step["published"] or {}).get("images_per_second")
                ),
            }
        title = f"Cost of a gradient step: {model}, {_size(settings)}"
        shown.append(table("method", row["steps"], columns, title=title, caption=caption))
    return shown


def selections(report: Mapping[str, Any]) -> list[Table]:
    """A row for each set of layers."""
    settings, rows = report["settings"], report["rows"]

    def own(key: str) -> Callable[[Any], str]:
        return lambda row: _text(next(s[key] for s in row["steps"].values() if key in s))

    def cost(name: str) -> Callable[[Any], str]:
        return lambda row: _text(row["steps"][name]["ratio"])

    names = [name for name in next(iter(rows.values()))["steps"] if name != SGD]
    found = table(
        "perturbed",
        rows,
        {
            **{_narrow(name): cost(name) for name in names},
            "counted": own("counted"),
            "eq. 8": own("modelled"),
            "differ-\nence": lambda row: f"{row['difference_from_textbook']:.0e}",
        },
        title=f"Cost of a gradient step relative to SGD: {settings['model']}, {_size(settings)}",
        caption=f"Median of {settings['rounds']} interleaved rounds. Static cut: by hand for a "
        "fixed set, no shared prefix. Difference: of layer-wise SAM from the textbook mask, "
        f"relative. {COUNTS}",
    )
    found.columns[0].min_width = 16
    return [found]


def compiled(report: Mapping[str, Any]) -> list[Table]:
    """A table for each network."""
    settings = report["settings"]
    return [
        table(
            "method",
            rows,
            _of_compilers(rows),
            title=f"{network}, compiled for {settings['devices']} {settings['target']}",
            caption="x: relative to textbook SAM. Memory: of the device, arguments and results "
            "included. Hand on: what conditionals return. By the host: conditionals outside of "
            "CUDA graphs. Collectives: inside conditionals. Cycles: as a TPU's compiler estimates.",
        )
        for network, rows in report["rows"].items()
    ]


def _of_compilers(rows: Mapping[str, Any]) -> dict[str, Callable[[Any], str]]:
    """The columns that say something of these rows."""

    def number(key: str, scale: float = 1.0) -> Callable[[Any], str]:
        return lambda row: _text(row.get(key), scale, 0)

    def ratio(key: str, base: str = "textbook") -> Callable[[Any], str]:
        first = rows[base].get(key)  # None where it failed
        return lambda row: _text(row.get(key) if first else None, 1 / (first or 1))

    known: dict[str, tuple[str, Callable[[str], Callable[[Any], str]]]] = {
        "trace\n(x)": ("trace_seconds", ratio),
        "compile\n(x)": ("compile_seconds", ratio),
        "memory\n(MB)": ("memory_bytes", partial(number, scale=1e-6)),
        "(x)": ("memory_bytes", ratio),
        "condi-\ntionals": ("conditionals", number),
        "hand on\n(MB)": ("handed_bytes", partial(number, scale=1e-6)),
        "by the\nhost": ("by_host", number),
        "collec-\ntives": ("collectives", number),
        "cycles\n(x plain)": ("cycles", partial(ratio, base="plain")),
        "failed": ("error", lambda key: lambda row: row.get(key, "")[:40]),
    }
    return {
        heading: cell(key)
        for heading, (key, cell) in known.items()
        if any(row.get(key) for row in rows.values())
    }


def programs(report: Mapping[str, Any]) -> Table:
    """Compile time, memory and FLOPs."""
    found = report["programs"]
    compared = all("compile_seconds_relative_to_textbook" in program for program in found.values())

    def number(key: str, scale: float = 1.0, digits: int = 1) -> Callable[[Any], str]:
        return lambda program: _text(program[key], scale, digits)

    seconds, memory = (
        f"{key}_relative_to_textbook" for key in ("compile_seconds", "temporary_bytes")
    )
    columns = {
        "compile\n(s)": number("compile_seconds"),
        **({"x": number(seconds, digits=2)} if compared else {}),
        "temporary\n(MB)": number("temporary_bytes", 1e-6),
        **({"x ": number(memory, digits=2)} if compared else {}),
        "in all\n(MB)": number("total_bytes", 1e-6),
        "FLOPs": number("flops_relative_to_sgd", digits=2),
    }
    return table(
        "program",
        found,
        columns,
        title="Compiled programs",
        caption="Compile: trace, lower, compile. Temporary memory; and with arguments and results. "
        + "x: relative to the textbook mask's. " * compared
        + "FLOPs: as XLA counts them (of a conditional the costliest branch, of a loop one pass), "
        "relative to SGD's.",
    )


_TABLES = {"methods": methods, "selections": selections, "compiled": compiled}


def _narrow(heading: str) -> str:
    return heading.replace("-", "-\n").replace(" ", "\n", 1).replace("contrib.", "\ncontrib\n.")


def _size(settings: Mapping[str, Any]) -> str:
    side = settings["image_size"]
    return f"batch {settings['batch_size']}, {side}x{side}x3"


def _text(value: float | None, scale: float = 1.0, digits: int = 2) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"


def _rate(value: float | None) -> str:
    """Images a second, to three digits or the unit."""
    digits = 0 if value is None or value >= 100 else 1 if value >= 10 else 2
    return _text(value, digits=digits)
