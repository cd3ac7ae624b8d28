"""The examples in the docstrings of the core; and that every public name has one, and is described.

What a docstring says of each argument stands under "Args" (functions) or "Attributes" (tuples).
"""

import ast
import doctest
import importlib
import inspect
import pathlib
import re

import pytest

import lsam_jax

STEMS = (path.stem for path in pathlib.Path(lsam_jax.__file__).parent.glob("*.py"))
MODULES = ["lsam_jax", *sorted(f"lsam_jax.{stem}" for stem in STEMS if stem != "__init__")]
FUNCTIONS = {
    **{name: getattr(lsam_jax, name) for name in lsam_jax.__all__ if name != "presets"},
    **{
        f"presets.{name}": member
        for name, member in vars(lsam_jax.presets).items()
        if inspect.isfunction(member) and member.__module__ == lsam_jax.presets.__name__
    },
}
PUBLIC = {"lsam_jax": lsam_jax, "presets": lsam_jax.presets, **FUNCTIONS}
# Methods make SamTransformation: its docstring describes `update`, not how to call it.
CALLED = [name for name in FUNCTIONS if name != "SamTransformation"]


def section(member, name):
    """The entries of a section, as a mapping from what each describes to how."""
    found = re.search(rf"^{name}:\n((?:  .*\n?|\n(?=  ))+)", inspect.getdoc(member), re.MULTILINE)
    entries = re.split(r"^  (?=\S)", found[1], flags=re.MULTILINE)[1:] if found else []
    described = {}
    for entry in entries:
        names, _, text = entry.partition(":")
        described |= {name.strip(): text.strip() for name in names.split(",")}
    return described


def arguments(member):
    """The names of the arguments, as a docstring writes them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(member).parameters.values()
    return [stars.get(parameter.kind, "") + parameter.name for parameter in parameters]


def body(function):
    """The source without the docstring."""
    (definition,) = ast.parse(inspect.getsource(function)).body
    return "\n".join(map(ast.unparse, definition.body[1:]))


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    (found,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name)
    assert any(example.want for example in found.examples), "an example shows what comes out"


@pytest.mark.parametrize("name", CALLED)
def test_every_argument_is_described_in_order(name):
    member = FUNCTIONS[name]
    attributes = getattr(member, "_fields", None)
    described = section(member, "Args" if attributes is None else "Attributes")
    assert list(described) == list(attributes or arguments(member))
    assert all(described.values())


@pytest.mark.parametrize("name", [n for n, f in FUNCTIONS.items() if inspect.isfunction(f)])
def test_functions_that_refuse_arguments_say_so(name):
    # What builds a method or a selector checks what it is given.
    refuses = re.search(r"\b(raise|build|bandit)\b|\bcheck_\w+\(", body(FUNCTIONS[name]))
    assert section(FUNCTIONS[name], "Raises") or not refuses


def test_the_front_page_names_everything():
    named = set(re.findall(r"`([\w.]+)`", lsam_jax.__doc__))
    assert named >= {n for n in lsam_jax.__all__ if n != "presets"} | {"lsam_jax.presets"}
