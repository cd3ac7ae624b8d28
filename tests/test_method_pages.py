"""Pages of methods: their notes name arguments that there are, and every page has its parts."""

import importlib.util
import inspect
import pathlib
import re

import pytest

import lsam_jax as lsam
from lsam_jax.experiments.frontier.regimes import REGIMES

DOCS = pathlib.Path(__file__).parent.parent / "docs"
NOTES = {note.stem: note.read_text() for note in (DOCS / "method_notes").glob("*.md")}


def load():
    spec = importlib.util.spec_from_file_location("method_pages", DOCS / "method_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = load()


def test_notes_are_of_methods():
    assert set(NOTES) <= set(PAGES.LABELS)


@pytest.mark.parametrize("name", NOTES)
def test_symbols_name_arguments_that_there_are(name):
    named = {x for row in PAGES.rows(NOTES[name]) for x in re.findall(r"`(\w+)`", row[2])}
    assert named <= set(inspect.signature(getattr(lsam, name)).parameters)


@pytest.mark.parametrize("name", PAGES.LABELS)
def test_a_page_defines_the_symbols_of_its_formula(name):
    page = PAGES.page(name)
    assert "\n## Symbols\n" in page
    assert ("\n## Cost\n" in page) == (name != "flat_lora")  # whose docstring says it


@pytest.mark.parametrize("name", lsam.__all__)
def test_nothing_that_a_docstring_says_is_taken_for_html(name):
    said = inspect.getdoc(getattr(lsam, name)) or ""
    said = re.sub(r"`[^`]*`|^ *(>>>|\.\.\.).*$", "", said, flags=re.MULTILINE)
    assert not re.search(r"<[a-z]", said)


def test_every_run_of_the_frontier_is_on_the_page_of_its_method():
    text = (DOCS.parent / "results/frontier/frontier.md").read_text()
    regimes = [REGIMES[name] for name in PAGES.SHOWN]
    tables = [text.partition(f"\n## {one.title}\n")[2].partition("\n## ")[0] for one in regimes]
    found = [row for table in tables for row in PAGES.rows(table) if len(row) == 10]
    plain = {c.label for one in regimes for c in one.contenders if c.method == "sgd"}
    names = {row[0] for row in found} - {"method"} - plain
    assert {"SAM on 1/8", "layer-wise, the paper's"} <= names
    shown = {row[0] for name in PAGES.LABELS for row in PAGES.rows(PAGES.results(name))}
    assert names <= shown
