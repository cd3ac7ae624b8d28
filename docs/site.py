"""Pages of the site that are made: the front page, a page for each method, and the API.

`mkdocs build` runs this, and fails if a public name is not described on any page; see mkdocs.yml.
"""

import importlib
import re
import sys
import textwrap
from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

import lsam_jax as lsam

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # for what stands beside this file, which is no package
import method_pages  # noqa: E402

CODE = "https://github.com/OWNER/REPO/blob/main"
FROM_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
FROM_ROOT |= {"changelog.md": "CHANGELOG.md", "frontier.md": "results/frontier/frontier.md"}
PUBLIC = [name for name in lsam.__all__ if name not in method_pages.LABELS]
MODULES = ("components", "presets", "diagnostics", "integrations.linen", "integrations.nnx")
MODULES += ("experiments.config.config", "experiments.presets", "experiments.training")
HIDDEN = ("diagnostics.gradient_norms.gradient_norms",)
"""Functions that a module of the same name hides; pages of modules leave them out."""
NUMBER = r"[-+\N{MINUS SIGN}]?[\d.]+"
SPREAD = re.compile(rf"{NUMBER} (?:± {NUMBER}|\({NUMBER} to {NUMBER}\)|to {NUMBER})|\\<")
LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)(#[^)]*)?\)")


class Examples(griffe.Extension):
    """What a docstring shows after ``>>>``, from there to its end, under the heading Examples."""

    def on_object(self, *, obj, **options):
        """Of every object that is read."""
        if obj.docstring is None:
            return
        text, mark, rest = obj.docstring.value.partition("\n\n>>> ")
        text = re.sub(r"\bdocs/([\w-]+)\.md", r"[\1](../../\1/)", text)
        rest = textwrap.indent(f">>> {rest}", "    ")
        obj.docstring.value = f"{text}\n\nExamples:\n{rest}\n" if mark else text


def made() -> dict[str, str]:
    """Pages by their place."""
    pages = {place: (ROOT / name).read_text() for place, name in FROM_ROOT.items()}
    pages |= {f"methods/{name}.md": method_pages.page(name) for name in method_pages.LABELS}
    names = "".join(f"::: lsam_jax.{name}\n\n" for name in PUBLIC if name not in MODULES)
    pages["api/lsam_jax.md"] = f"# lsam_jax\n\n{names}"
    for name in MODULES:
        options = "    options: {show_root_heading: false, heading_level: 2}\n"
        hidden = "".join(f"\n::: lsam_jax.{x}\n" for x in HIDDEN if x.startswith(f"{name}."))
        pages[f"api/{name}.md"] = f"# lsam_jax.{name}\n\n::: lsam_jax.{name}\n{options}{hidden}"
    return pages


def on_config(config):
    """Adds the pages that are made to the contents."""
    names = sorted(page.removesuffix(".md") for page in made())
    names.sort(key=lambda name: name != "api/lsam_jax")  # first
    for section in config.nav:
        for title, room in (("Methods", "methods/"), ("API", "api/")):
            if title in section:
                of_room = [name.removeprefix(room) for name in names if name.startswith(room)]
                section[title] += [{name: f"{room}{name}.md"} for name in of_room]
    return config


def on_files(files, config):
    """Adds the pages, and the pictures that a page shows."""
    pages = made()
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    texts = [*pages.values(), *(page.read_text() for page in (ROOT / "docs").glob("*.md"))]
    shown = {name for text in texts for name in re.findall(r"results/[\w./-]+\.png", text)}
    for name in sorted(shown):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links that hold in the repository into links that hold on the site.

    A number in a table stays in one line with its spread, and GitHub's escapes are HTML's.
    """

    def together(found):
        return found[0].replace(" ", "\N{NO-BREAK SPACE}").replace("\\<", "&lt;")

    markdown = re.sub(r"^\|.*", lambda line: SPREAD.sub(together, line[0]), markdown, flags=re.M)
    place = page.file.src_uri
    if place.startswith(("methods/", "api/")):
        return markdown
    base = (ROOT / FROM_ROOT.get(place, "docs/x.md")).parent

    def turned(match):
        target, anchor = match[1], match[2] or ""
        path = (base / target).resolve().relative_to(ROOT).as_posix()
        there = {name: page for page, name in FROM_ROOT.items()}
        if path in there or re.fullmatch(r"docs/[\w-]+\.md", path):
            return f"]({there.get(path, Path(path).name)}{anchor})"
        return f"]({path if path.endswith('.png') else f'{CODE}/{path}'}{anchor})"

    return LINK.sub(turned, markdown)


described: set[str] = set()
"""Places, as HTML names them, of what the pages describe."""


def on_page_content(html, page, config, files):
    """Notes what a page describes."""
    described.update(re.findall(r'id="(lsam_jax[\w.]*)"', html))


def on_post_build(config):
    """Raises for public names that have no docstring, or are on no page."""
    package = griffe.load("lsam_jax", search_paths=[str(ROOT)])
    missing = []
    library = [name for name in MODULES if not name.startswith("experiments")]
    for module in ("lsam_jax", *(f"lsam_jax.{name}" for name in library)):
        for name in getattr(importlib.import_module(module), "__all__", ()):
            place, found = f"{module}.{name}", package[f"{module}.{name}".partition(".")[2]]
            if f"{place}.{name}".partition(".")[2] in HIDDEN:
                place, found = f"{place}.{name}", found[name]
            if place not in described or found.docstring is None:
                missing.append(place)
    if missing:
        raise PluginError(f"without a docstring, or on no page: {', '.join(missing)}")
