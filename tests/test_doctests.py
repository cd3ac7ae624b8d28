"""The examples in the docstrings of the core."""

import doctest
import importlib
import pathlib

import pytest

import lsam_jax

MODULES = sorted(path.stem for path in pathlib.Path(lsam_jax.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__"])
def test_examples(module):
    result = doctest.testmod(importlib.import_module(f"lsam_jax.{module}"))
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(f"lsam_jax.{m}") for m in MODULES if m != "__init__"]
    assert sum(len(test.examples) for m in modules for test in finder.find(m)) > 10
