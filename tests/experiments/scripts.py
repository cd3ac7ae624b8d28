"""The scripts that stand beside the results that they made."""

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def script(path):
    """A script as a module, which does not run."""
    if not (ROOT / f"{path}.py").exists():
        pytest.skip(f"{path}.py is not in a source distribution", allow_module_level=True)
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their own
    spec.loader.exec_module(module)
    return module
