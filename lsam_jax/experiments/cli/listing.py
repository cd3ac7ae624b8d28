"""Presets, as ``lsam-jax list`` and ``lsam-jax inspect`` show them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lsam_jax.experiments import tables
from lsam_jax.experiments.config.presets import Preset
from lsam_jax.experiments.training.step import Program


def presets_table(presets: Iterable[Preset]) -> Table:
    """A row for each preset."""
    table = tables.empty()
    for heading in ("preset", "data", "model", "epochs", "batch"):
        is_number = heading in ("epochs", "batch")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    table.add_column("source", overflow="fold")
    for preset in presets:
        config = preset.config
        cells = (preset.name, config.data, config.model, config.epochs, config.batch_size)
        table.add_row(*(escape(str(x)) for x in (*cells, preset.source.partition(":")[0])))
    return table


def outlined(preset: Preset, program: Program) -> Iterator[Any]:
    """What a preset runs, and what perturbing each layer of its program would cost."""
    yield Text.assemble((preset.name, "bold"), f": {preset.source}")
    yield from (Text(f"assumed: {assumption}") for assumption in preset.assumed)
    for table in (_config(preset), _methods(preset), program.inspection):
        yield from ("", table)
    parameters = sum(program.sizes.values()) + program.frozen
    inside = sum(layer.parameters for layer in program.inspection.layers)
    per_epoch, epochs = program.steps_per_epoch, preset.config.epochs
    yield Text(
        f"\n{parameters:,} parameters, {inside:,} of them ({inside / parameters:.1%}) in "
        f"{len(program.inspection.layers)} kernels\n{per_epoch:,} steps per epoch, "
        f"{per_epoch * epochs:,} in {epochs} epochs"
    )


def _config(preset: Preset) -> Table:
    """The configuration, but for what depends on the method."""
    settings = preset.config.to_json().items()
    rows = {name: x for name, x in settings if name not in ("method", "options")}
    return tables.table("configuration", rows, {"": _text}, words=2)


def _methods(preset: Preset) -> Table:
    rows = {name: (options, preset.published.get(name)) for name, options in preset.methods.items()}
    columns: dict[str, Callable[[Any], str]] = {
        "its hyper-parameters": lambda row: ", ".join(f"{k}={_text(x)}" for k, x in row[0].items())
    }
    if preset.published:
        paper = "accuracy in\nthe paper (%)"
        columns[paper] = lambda row: "" if row[1] is None else f"{row[1]:.2f}"
    return tables.table("method", rows, columns, words=2)


def _text(value: Any) -> str:
    """A value as ``--set`` reads it, in at most six digits."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
