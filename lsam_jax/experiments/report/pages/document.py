"""What a report says, before it is HTML or Markdown."""

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias


class Link(NamedTuple):
    """A part of a paragraph that leads elsewhere."""

    text: str
    url: str


class Paragraph(NamedTuple):
    """Plain text and links."""

    parts: tuple[str | Link, ...]


class Bullets(NamedTuple):
    """A list of plain texts."""

    items: tuple[str, ...]


class Code(NamedTuple):
    """Text to be copied."""

    text: str


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
    """A heading and what stands below it."""

    title: str
    blocks: tuple["Block | Section", ...]


Block: TypeAlias = Paragraph | Bullets | Code | Table | Figure


class Document(NamedTuple):
    """A title, what comes before the table of contents, and sections."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]


class Heading(NamedTuple):
    """A section with its place: `depth` is 2 for those of the document, 3 for those within."""

    section: Section
    anchor: str
    depth: int


def text(words: str) -> Paragraph:
    """A paragraph without links."""
    return Paragraph((words,))


def headings(document: Document) -> Iterator[Heading]:
    """All sections in reading order, each with its anchor.

    The anchors are those that GitHub gives the headings of a Markdown file, so that one table of
    contents serves both renderings.
    """
    seen: dict[str, int] = {_slug(document.title): 1}

    def walk(sections: tuple[Section, ...], depth: int) -> Iterator[Heading]:
        for section in sections:
            slug = _slug(section.title)
            again = seen.get(slug, 0)
            seen[slug] = again + 1
            yield Heading(section, f"{slug}-{again}" if again else slug, depth)
            yield from walk(inner(section), depth + 1)

    yield from walk(document.sections, 2)


def inner(section: Section) -> tuple[Section, ...]:
    """The sections directly within a section."""
    return tuple(block for block in section.blocks if isinstance(block, Section))


def _slug(title: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", title.lower())
    return kept.replace(" ", "-")
