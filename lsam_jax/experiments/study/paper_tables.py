"""The tables and figures of the layer-wise SAM paper: which cells each is made of."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from lsam_jax.experiments.config.paper_results import TABLE1, TABLE3, TABLE4, Numbers, Row, Tables
from lsam_jax.experiments.config.presets import Preset
from lsam_jax.experiments.study.cells import CELLS, GRID, METHODS


class Artefact(NamedTuple):
    """A table or a figure.

    Attributes:
        title: What it shows.
        caption: What to know of it.
        rows: Its rows or lines, of runs of `cells.CELLS`.
        sharpness: The rows whose runs are looked at for sharpness.
        landscapes: Whether their loss landscapes do.
        costs: Whether their steps are timed.
    """

    title: str
    caption: str
    rows: tuple[Row, ...]
    sharpness: tuple[Row, ...] = ()
    landscapes: bool = False
    costs: bool = False


def artefact(name: str, preset: Preset) -> Artefact:
    """What a table or figure needs.

    Raises:
        ValueError: When the name is not known, or the paper has no such table for the preset.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r} is not known; choose from {', '.join(NAMES)}")
    return _MAKERS[name](preset)


def _methods(preset: Preset) -> tuple[Row, ...]:
    first = TABLE1.get(preset.name, {})
    return tuple(
        Row(name, cell.label, first.get(cell.method, {}) if cell.is_plain else {})
        for name, cell in METHODS.items()
        if name not in ("gsam", "looksam", "lsam") or cell.method in preset.methods
    )


def _table1(preset: Preset) -> Artefact:
    caption, rows = "The paper's four methods, and others at hand.", _methods(preset)
    cells = [(row, METHODS[row.run]) for row in rows]
    named = tuple(row for row, cell in cells if cell.is_plain and cell.method in preset.methods)
    return Artefact("Methods", caption, rows, sharpness=named, costs=True)


def _table2(preset: Preset) -> Artefact:
    caption = "Steps of the trained networks, timed in turn."
    return Artefact("Cost of a step", caption, _methods(preset), costs=True)


def _table3(preset: Preset) -> Artefact:
    third = _published(TABLE3, preset, "table3")
    rows = (
        Row("lsam", "high norm", third["high"]),
        Row("lsam-random", "random", third["random"]),
        Row("lsam-low", "low norm", third["low"]),
        Row("sgd", "none (SGD)", third["none"]),
    )
    return Artefact("Which layers", "Which k layers a step perturbs.", rows, costs=True)


def _table4(preset: Preset) -> Artefact:
    fourth = _published(TABLE4, preset, "table4")
    own = preset.methods["layerwise_sam"]["k"]
    some = [
        Row("lsam" if int(k) == own else f"lsam-k{k}", f"k={k}", number)
        for k, number in fourth.items()
        if k != "all"
    ]
    rows = (Row("sgd", "k=0 (SGD)", {}), *some, Row("gsam", "all (generalized SAM)", fourth["all"]))
    caption = "The k layers of largest norm; of all, the biases and BatchNorm parameters too."
    return Artefact("How many layers", caption, rows, costs=True)


def _grid(preset: Preset) -> Artefact:
    own = dict(preset.methods["layerwise_sam"])
    whose = "the paper's" if preset.name in TABLE1 else "the preset's"
    normalised = "normalised" if own.pop("normalize", False) else "not normalised"
    label = f"{whose}: rho={own.pop('rho'):g}, alpha={own.pop('alpha'):g}, {normalised}"
    rows = (
        Row("sgd", "SGD", {}),
        Row("lsam", label, {}),
        *(Row(name, cell.label, {}) for name, cell in GRID.items()),
    )
    shared = ", ".join(f"{name}={x:g}" for name, x in own.items())
    caption = (
        "Layer-wise SAM's radius, mixture and normalisation; everything that was tried. All with "
        f"{shared}."
    )
    return Artefact("Hyper-parameters", caption, rows)


def _figure(title: str, *cells: str, landscapes: bool = False) -> Callable[[Preset], Artefact]:
    def make(preset: Preset) -> Artefact:
        shown = [name for name in cells if name == "sgd" or CELLS[name].method in preset.methods]
        rows = tuple(Row(name, CELLS[name].label, {}) for name in shown)
        return Artefact(title, "", rows, landscapes=landscapes)

    return make


def _published(tables: Tables, preset: Preset, name: str) -> Mapping[str, Numbers]:
    if preset.name not in tables:
        raise ValueError(
            f"the paper has no {name} for preset {preset.name!r}; choose one of {', '.join(tables)}"
        )
    return tables[preset.name]


_MAKERS: Mapping[str, Callable[[Preset], Artefact]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": _table4,
    "figure1": _figure("Gradient norms of layers, SGD", "sgd"),
    "figure2": _figure("Loss landscapes of layers, SGD", "sgd", landscapes=True),
    "figure3": _figure("Learning curves", "sgd", "gsam", "looksam", "lsam"),
    "figure4": _figure("Gradient norm of the model", "sgd", "gsam", "looksam", "lsam"),
    "figure5": _figure("Perturbed layers", "gsam", "looksam", "lsam"),
    "figure6": _figure("Loss landscapes of layers, layer-wise SAM", "lsam", landscapes=True),
    "grid": _grid,
}

NAMES = tuple(_MAKERS)
"""The paper's, and a grid of layer-wise SAM's own hyper-parameters."""
