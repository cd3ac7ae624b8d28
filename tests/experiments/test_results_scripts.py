"""The scripts beside the results find in the package what they import."""

import ast
import importlib
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"
SCRIPTS = sorted(RESULTS.rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_imports_are_there(script):
    imports = [n for n in ast.walk(ast.parse(script.read_text())) if isinstance(n, ast.ImportFrom)]
    missing = []
    for node in imports:
        if node.module and node.module.startswith("lsam_jax"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                if not hasattr(module, name):
                    try:
                        importlib.import_module(f"{node.module}.{name}")
                    except ModuleNotFoundError:
                        missing.append(f"{node.module}.{name}")
    assert missing == []
