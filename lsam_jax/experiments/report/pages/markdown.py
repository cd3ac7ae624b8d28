"""A document as a Markdown file with pictures beside it, as GitHub renders it."""

import re
from urllib.parse import quote

from lsam_jax.experiments.report.pages.document import (
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Link,
    Paragraph,
    Section,
    Table,
    headings,
)


def render(document: Document, pictures: str) -> str:
    """The file.

    Args:
        document: What to say.
        pictures: The directory of the pictures as seen from the file.
    """
    blocks = [f"# {_escape(document.title)}", *(_block(x, pictures) for x in document.lead)]
    contents = [
        f"{'  ' * (depth - 2)}- [{_escape(section.title)}](#{quote(anchor)})"
        for section, anchor, depth in headings(document)
    ]
    blocks += ["## Contents", "\n".join(contents)]
    for section in document.sections:
        blocks += _section(section, 2, pictures)
    return "\n\n".join(blocks) + "\n"


def _section(section: Section, depth: int, pictures: str) -> list[str]:
    blocks = [f"{'#' * depth} {_escape(section.title)}"]
    for block in section.blocks:
        if isinstance(block, Section):
            blocks += _section(block, depth + 1, pictures)
        else:
            blocks.append(_block(block, pictures))
    return blocks


def _block(block: Block, pictures: str) -> str:
    match block:
        case Paragraph(parts):
            return "".join(_part(part) for part in parts)
        case Bullets(items):
            return "\n".join(f"- {_escape(item)}" for item in items)
        case Code(words):
            return f"```sh\n{words}\n```"
        case Table(caption, columns, rows, is_prose):
            rule = [":--", *((":--" if is_prose else "--:") for _ in columns[1:])]
            lines = [_row(columns), f"|{'|'.join(rule)}|", *(_row(row) for row in rows)]
            return "\n".join(lines) + f"\n\n*{_escape(caption)}*"
        case Figure(name, _, alt, caption):
            return f"![{_escape(alt)}]({pictures}/{name}.png)\n\n*{_escape(caption)}*"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_escape(cell).replace("\n", "<br>") for cell in cells) + " |"


def _part(part: str | Link) -> str:
    if isinstance(part, Link):
        return f"[{_escape(part.text)}]({part.url})"
    return _escape(part)


def _escape(words: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", words)
