"""Presets, as ``lsam-jax list`` and ``lsam-jax inspect`` print them."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lsam_jax.experiments import tables
from lsam_jax.experiments.config.presets import Preset
from lsam_jax.inspection import Inspection


def print_presets(presets: Iterable[Preset], console: Console | None = None) -> None:
    """Prints one row for each preset."""
    table = tables.empty()
    for heading in ("preset", "data", "model", "epochs", "batch"):
        is_number = heading in ("epochs", "batch")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    table.add_column("source", overflow="fold")
    for preset in presets:
        config = preset.config
        cells = (preset.name, config.data, config.model, config.epochs, config.batch_size)
        table.add_row(*(escape(str(x)) for x in (*cells, preset.source.partition(":")[0])))
    (console or Console()).print(table)


def print_inspection(
    preset: Preset,
    inspection: Inspection,
    *,
    parameters: int,
    steps_per_epoch: int,
    console: Console | None = None,
) -> None:
    """Prints what a preset runs, and what perturbing each of its layers would cost."""
    console = Console() if console is None else console
    console.print(f"[bold]{escape(preset.name)}[/bold]: {escape(preset.source)}", highlight=False)
    for assumption in preset.assumed:
        console.print(f"assumed: {escape(assumption)}", highlight=False)
    for table in (_config(preset), _methods(preset), inspection):
        console.print()
        console.print(table)
    inside = sum(layer.parameters for layer in inspection.layers)
    steps = steps_per_epoch * preset.config.epochs
    console.print(
        f"\n{parameters:,} parameters, {inside:,} of them ({inside / parameters:.1%}) in "
        f"{len(inspection.layers)} kernels\n{steps_per_epoch:,} steps per epoch, {steps:,} in "
        f"{preset.config.epochs} epochs",
        highlight=False,
    )


def _config(preset: Preset) -> Table:
    """The configuration, but for what depends on the method."""
    settings = preset.config.to_json().items()
    rows = {name: x for name, x in settings if name not in ("method", "options")}
    return tables.table("configuration", rows, {"": _text}, words=2)


def _methods(preset: Preset) -> Table:
    table = tables.empty()
    table.add_column("method", no_wrap=True)
    table.add_column("its hyper-parameters", overflow="fold")
    if preset.published:
        table.add_column("accuracy in\nthe paper (%)", justify="right", no_wrap=True)
    for name, options in preset.methods.items():
        values = ", ".join(f"{option}={_text(value)}" for option, value in options.items())
        published = preset.published.get(name)
        table.add_row(
            name,
            escape(values),
            *(["" if published is None else f"{published:.2f}"] if preset.published else ()),
        )
    return table


def _text(value: Any) -> str:
    """A value as ``--set`` reads it, in at most six digits."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
