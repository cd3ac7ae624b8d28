"""Docstrings: their examples run, and every public name has one and is described.

What a docstring says of each argument stands under "Args" (functions) or "Attributes" (tuples).
"""

import ast
import doctest
import importlib
import inspect
import pathlib
import re
import textwrap

import pytest

import lsam_jax
from lsam_jax import diagnostics

PACKAGE = pathlib.Path(lsam_jax.__file__).parent
INTEGRATIONS = ["lsam_jax.integrations.linen", "lsam_jax.integrations.nnx"]
DIAGNOSTICS = sorted(
    f"lsam_jax.diagnostics.{path.stem}"
    for path in (PACKAGE / "diagnostics").glob("*.py")
    if path.stem != "__init__"
)
ELSEWHERE = {"__init__.py", "diagnostics", "integrations", "experiments"}
CORE = sorted(
    ".".join(["lsam_jax", *path.with_suffix("").parts]).removesuffix(".__init__")
    for path in (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    if path.parts[0] not in ELSEWHERE
)
HOMES = {
    "lsam_jax.presets": ("lsam_jax.methods.practices",),
    "lsam_jax.components": ("lsam_jax.transform.transform",),
}


def defined_in(name):
    """The public classes and functions of a module, by its last name and theirs."""
    module = importlib.import_module(name)
    return {
        f"{name.rpartition('.')[2]}.{member.__name__}": member
        for member in vars(module).values()
        if getattr(member, "__module__", "") in (name, *HOMES.get(name, ()))
        and not member.__name__.startswith("_")
    }


MODULES = ("components", "presets")
DESCRIBED = {name: getattr(lsam_jax, name) for name in lsam_jax.__all__ if name not in MODULES}
for module in (*(f"lsam_jax.{name}" for name in MODULES), *INTEGRATIONS):
    DESCRIBED |= defined_in(module)
DESCRIBED |= {
    f"diagnostics.{name}": getattr(diagnostics, name)
    for name in diagnostics.__all__
    if name != "PAPER_STEPS"
}
PUBLIC = {"lsam_jax": lsam_jax, **{n: getattr(lsam_jax, n) for n in MODULES}, **DESCRIBED}
FUNCTIONS = [name for name, member in DESCRIBED.items() if inspect.isfunction(member)]
TUPLES = [name for name, member in DESCRIBED.items() if hasattr(member, "_field_defaults")]


def section(member, name):
    """The entries of a section, as a mapping from what each describes to how."""
    found = re.search(rf"^{name}:\n((?:  .*\n?|\n(?=  ))+)", inspect.getdoc(member), re.MULTILINE)
    text = textwrap.dedent(found[1]) if found else ""
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    described = {}
    for entry in entries:
        names, _, text = entry.partition(":")
        described |= {name.strip(): text.strip() for name in names.split(",")}
    return described


def arguments(member):
    """The names of the arguments, as a docstring writes them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    # As it is written: options that methods share are said once, in `layerwise_sam`.
    parameters = inspect.signature(inspect.unwrap(member)).parameters.values()
    return [stars.get(parameter.kind, "") + parameter.name for parameter in parameters]


def body(function):
    """The source without the docstring."""
    (definition,) = ast.parse(inspect.getsource(function)).body
    return "\n".join(map(ast.unparse, definition.body[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["lsam_jax", *CORE, *DIAGNOSTICS, *INTEGRATIONS])
def test_examples(module):
    # With nothing but what it imports, so that it can be copied.
    result = doctest.testmod(importlib.import_module(module), globs={})
    assert result.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    (found,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name)
    assert any(example.want for example in found.examples), "an example shows what comes out"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described_in_order(name):
    described = section(DESCRIBED[name], "Args")
    assert list(described) == arguments(DESCRIBED[name])
    assert all(described.values())


@pytest.mark.parametrize("name", [n for n in TUPLES if n != "SamTransformation"])
def test_every_field_is_described_in_order(name):
    described = section(DESCRIBED[name], "Attributes")
    assert list(described) == list(DESCRIBED[name]._fields)
    assert all(described.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_refuse_arguments_say_so(name):
    # What builds a method or a selector checks what it is given.
    refuses = re.search(
        r"\braise\b|\breturn method\(|\bbandit\b|\bcheck_\w+\(", body(DESCRIBED[name])
    )
    assert section(DESCRIBED[name], "Raises") or not refuses


def test_the_front_page_names_everything():
    named = set(re.findall(r"`([\w.]+)`", lsam_jax.__doc__))
    assert named >= {n for n in lsam_jax.__all__ if n != "presets"} | {"lsam_jax.presets"}
