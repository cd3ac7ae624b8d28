"""What a report says, as one Markdown file as GitHub renders it, and as the HTML page of that."""

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape as escape_html
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from lsam_jax.experiments import files

CONTENTS = "Contents"
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8").strip()


Columns: TypeAlias = Mapping[str, Callable[[Any], str] | None]
"""Headings to cells of what a row is about, None for a column that is left out."""


class Table(NamedTuple):
    """Texts in rows; the first of a row says what the row is about.

    Attributes:
        caption: What the numbers are.
        columns: Headings.
        rows: As many texts in each as there are columns.
        is_prose: Whether cells are words rather than numbers, and may be long.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_prose: bool = False

    @classmethod
    def of(
        cls,
        caption: str,
        items: Iterable[Any],
        columns: Columns,
        is_prose: bool = False,
    ) -> "Table":
        """A row for each item."""
        shown = {heading: cell for heading, cell in columns.items() if cell is not None}
        rows = tuple(tuple(cell(item) for cell in shown.values()) for item in items)
        return cls(caption, tuple(shown), rows, is_prose)


class Figure(NamedTuple):
    """A picture.

    Attributes:
        name: Of its file, without the ending; unique in a document.
        png: The file.
        alt: What is seen, for those who do not see it.
        caption: How it is to be read.
    """

    name: str
    png: bytes
    alt: str
    caption: str


class Section(NamedTuple):
    """A heading and what stands below it; text is Markdown."""

    title: str
    blocks: tuple["Block | Section", ...]

    @classmethod
    def of(cls, title: str, *blocks: "Block | Section | None") -> "Section":
        """Of the blocks that there are."""
        return cls(title, tuple(block for block in blocks if block is not None))


Block: TypeAlias = str | Table | Figure


class Document(NamedTuple):
    """A title, what comes before the table of contents, and sections."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]

    def walk(self) -> Iterator[tuple[int, "Block | Section"]]:
        """Everything behind the title in reading order, each with the depth of its heading."""
        yield from _walk((*self.lead, *self.sections), 2)

    def figures(self) -> list[Figure]:
        """All pictures, in reading order."""
        return [block for _, block in self.walk() if isinstance(block, Figure)]


def _walk(blocks: Sequence[Block | Section], depth: int) -> Iterator[tuple[int, Block | Section]]:
    for block in blocks:
        yield depth, block
        if isinstance(block, Section):
            yield from _walk(block.blocks, depth + 1)


def escaped(words: str) -> str:
    """Text that Markdown reads as nothing but text."""
    return re.sub(r"([\\`*_\[\]<>|#~]|&(?=#?\w+;))", r"\\\1", words)


def bullets(items: Sequence[str]) -> str:
    """A list of plain texts."""
    return "\n".join(f"- {escaped(item)}" for item in items)


def to_markdown(document: Document, pictures: str) -> str:
    """The file."""
    blocks = list(document.walk())
    sections = [(depth, x.title) for depth, x in blocks if isinstance(x, Section)]
    anchors = anchors_of([document.title, CONTENTS, *(title for _, title in sections)])[2:]
    contents = [
        f"{'  ' * (depth - 2)}- [{escaped(title)}](#{quote(anchor)})"
        for (depth, title), anchor in zip(sections, anchors, strict=True)
    ]
    lead, rest = blocks[: len(document.lead)], blocks[len(document.lead) :]
    parts = [
        f"# {escaped(document.title)}",
        *(_block(block, depth, pictures) for depth, block in lead),
        f"## {CONTENTS}",
        "\n".join(contents),
        *(_block(block, depth, pictures) for depth, block in rest),
    ]
    return "\n\n".join(parts) + "\n"


def _block(block: Block | Section, depth: int, pictures: str) -> str:
    match block:
        case Section(title, _):
            return f"{'#' * depth} {escaped(title)}"
        case Table(caption, columns, rows, is_prose):
            rule = [":--", *((":--" if is_prose else "--:") for _ in columns[1:])]
            lines = [_row(columns), f"|{'|'.join(rule)}|", *(_row(row) for row in rows)]
            return "\n".join(lines) + f"\n\n*{escaped(caption)}*"
        case Figure(name, _, alt, caption):
            return f"![{escaped(alt)}]({pictures}/{name}.png)\n\n*{escaped(caption)}*"
        case str():
            return block


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(escaped(cell).replace("\n", "<br>") for cell in cells) + " |"


def anchors_of(titles: Sequence[str]) -> list[str]:
    """Those that GitHub gives headings.

    Example:
        >>> anchors_of(["A title", "A title!"])
        ['a-title', 'a-title-1']
    """
    seen, found = Counter[str](), []
    for title in titles:
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def _html(content: str) -> Token | None:
    return Token("html_block", "", 0, content=content) if content else None


def write(document: Document, place: Path, name: str, pictures: str) -> list[Path]:
    """Writes a document as NAME.html, all in one file, and as NAME.md, with pictures beside it.

    Args:
        document: What to say.
        place: The directory of both.
        name: Of both, without the ending.
        pictures: The directory of the pictures, from there.

    Returns:
        The HTML file, the other one, and the pictures in reading order.
    """
    files.writable_directory(place / pictures)
    drawn = {f"{pictures}/{figure.name}.png": figure.png for figure in document.figures()}
    text = to_markdown(document, pictures)
    contents = {f"{name}.html": to_html(text, drawn).encode(), f"{name}.md": text.encode(), **drawn}
    for path, content in contents.items():
        files.replace(place / path, content)
    return [place / path for path in contents]


def to_html(markdown: str, pictures: Mapping[str, bytes]) -> str:
    """A Markdown file as a page that needs nothing beside it: no scripts, pictures as data URIs."""
    reader = MarkdownIt("commonmark", {"xhtmlOut": False}).enable("table")
    tokens = reader.parse(markdown)
    headings = [tokens[n + 1] for n, token in enumerate(tokens) if token.type == "heading_open"]
    titles = ["".join(part.content for part in one.children or ()) for one in headings]
    anchors = iter(anchors_of(titles))
    is_first = is_contents = False
    page: list[Token | None] = []
    for n, token in enumerate(tokens):
        before = behind = ""
        match token.type:
            case "heading_open":
                token.attrSet("id", next(anchors))
                is_contents = tokens[n + 1].content == CONTENTS
                before = f'<nav aria-label="{CONTENTS}">\n' if is_contents else ""
            case "bullet_list_close" if is_contents and token.level == 0:
                is_contents, behind = False, "</nav>\n"
            case "table_open":
                before = '<div class="wide">\n'
            case "table_close":
                behind = "</div>\n"
            case "tr_open":
                is_first = True
            case "th_open":
                token.attrSet("scope", "col")
            case "td_open" if is_first:  # says what the row is about
                token.attrSet("scope", "row")
                token.tag = tokens[n + 2].tag = "th"
                is_first = False
        for part in token.children or ():
            if part.type == "image":
                png = base64.b64encode(pictures[str(part.attrs["src"])]).decode()
                part.attrSet("src", f"data:image/png;base64,{png}")
        page += [_html(before), token, _html(behind)]
    body = reader.renderer.render([x for x in page if x], reader.options, {})
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape_html(titles[0])}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
