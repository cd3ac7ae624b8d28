"""What README shows to paste runs as it stands there, each block from nothing."""

import pathlib
import re

import jax.numpy as jnp
import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
SECTION = re.search(r"^## In your code base\n(.*?)^## ", TEXT, re.S | re.M)[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION, re.S | re.M)
OPTIONAL = ("equinox", "haiku")


def framework(block):
    names = ("flax.linen", "nnx", "equinox", "haiku", "optax.microbatching", "scale")
    return next((name for name in names if name in block), "jax")


def test_every_framework_has_a_block():
    assert [framework(block) for block in BLOCKS] == [
        "flax.linen",
        "nnx",
        "equinox",
        "haiku",
        "optax.microbatching",
        "scale",
        "jax",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=framework)
def test_runs_in_a_fresh_namespace(block, tmp_path, monkeypatch):
    if framework(block) in OPTIONAL:
        pytest.importorskip(framework(block))
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec"), namespace)
    assert jnp.isfinite(namespace["loss"])
    assert namespace["loss"] < jnp.log(3)  # it has learned something


def test_shard_map_runs_in_a_fresh_namespace():
    (block,) = re.findall(r"^```python\n((?:(?!```).)*?shard_map.*?)^```", TEXT, re.S | re.M)
    namespace = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["loss"] == 1  # ones through two identities, squared
    assert int(namespace["sam_state"].count) == 1


@pytest.mark.slow
def test_diagnostics_run_in_a_fresh_namespace():
    (block,) = re.findall(r"^```python\n((?:(?!```).)*?sam_ball.*?)^```", TEXT, re.S | re.M)
    namespace = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["ball"].rise > 0
    assert namespace["plane"].loss.shape == (9, 9)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_of_the_documentation_run(page):
    """The blocks of a page, one after the other."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)
    assert blocks
    namespace = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), namespace)
