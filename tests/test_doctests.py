"""The examples in the docstrings of the core and of the integrations."""

import doctest
import importlib
import pathlib

import pytest

import lsam_jax

PACKAGE = pathlib.Path(lsam_jax.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
INTEGRATIONS = [f"integrations.{name}" for name in ("linen", "nnx")]


@pytest.mark.parametrize("module", [*(m for m in MODULES if m != "__init__"), *INTEGRATIONS])
def test_examples(module):
    result = doctest.testmod(importlib.import_module(f"lsam_jax.{module}"))
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(f"lsam_jax.{m}") for m in MODULES if m != "__init__"]
    assert sum(len(test.examples) for m in modules for test in finder.find(m)) > 10
