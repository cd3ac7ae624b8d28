"""The house: small files, rooms in an order, imports that never go up nor in a circle."""

import ast
import functools
import pathlib

import pytest

import lsam_jax

PACKAGE = pathlib.Path(lsam_jax.__file__).parent
CORE = """
    arguments text_table arrays devices layers engine losses components. transform methods
    inspection suggestion components presets lsam_jax diagnostics integrations
"""  # components, with no dot: the public list of that room, which names parts of methods too
EXPERIMENTS = """
    environment errors files statistics plotting data config models distributed training bench
    study report. report frontier presets cli
"""
ORDER = [*CORE.split(), "experiments", *(f"experiments.{room}" for room in EXPERIMENTS.split())]


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts).removesuffix("__init__").removesuffix(".") or "lsam_jax"


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def known(name):
    """The module of the package that is, or holds, what an import names."""
    short = name.removeprefix("lsam_jax.")
    if not name.startswith("lsam_jax") or short in MODULES:
        return MODULES.get(short) and short
    return known(name.rpartition(".")[0])


GRAPH = {name: {*map(known, imported_by(path))} - {None} for name, path in MODULES.items()}


def place(name):
    """Of the room that a module is in, in the order."""
    rooms = [room for room in ORDER if name == room or f"{name}.".startswith(f"{room.strip('.')}.")]
    rooms = [
        room for room in rooms if room == name or room not in ("components", "experiments.report")
    ]
    return ORDER.index(max(rooms, key=lambda room: (len(room.strip(".")), room == name)))


@functools.cache
def level(name):
    """The length of the longest chain of imports from a module down, in the core or outside."""
    below = [level(other) for other in GRAPH[name] if is_core(other) == is_core(name)]
    return 1 + max(below, default=0)


def is_core(name):
    return name.partition(".")[0] not in ("experiments", "integrations")


@pytest.mark.parametrize("name", MODULES)
def test_no_import_goes_up(name):
    assert [other for other in GRAPH[name] if place(other) > place(name)] == []


def test_no_circle_and_thirteen_levels():
    assert max(map(level, MODULES)) <= 13  # a circle would recur for ever


def test_small_files():
    long = {name for name, path in MODULES.items() if len(path.read_text().splitlines()) > 300}
    assert not long


def lengths(path):
    """Of each function, how many lines it has beside its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            said = node.body[0] if ast.get_docstring(node) else None
            documented = said.end_lineno - said.lineno + 1 if said else 0
            yield node.name, node.end_lineno - node.lineno + 1 - documented


def test_short_functions():
    rooms = {n: path for n, path in MODULES.items() if not n.startswith(("engine", "experiments"))}
    found = {f"{n}.{name}": size for n, path in rooms.items() for name, size in lengths(path)}
    assert len(found) > 100
    assert not {name: size for name, size in found.items() if size > 60}
