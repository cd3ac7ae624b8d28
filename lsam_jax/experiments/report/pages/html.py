"""A document as one HTML file that needs nothing beside it."""

import base64
from collections.abc import Iterator
from html import escape

from lsam_jax.experiments.report.pages.document import (
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Heading,
    Link,
    Paragraph,
    Section,
    Table,
    headings,
)

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { margin-top: 2.5rem; padding-top: .5rem; border-top: 1px solid #ccc; font-size: 1.4rem; }
h3 { margin-top: 2rem; font-size: 1.1rem; }
a { color: #00568a; }
nav ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption, figcaption { color: #444; font-size: .88rem; text-align: left; }
caption { caption-side: bottom; padding-top: .5rem; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid #ddd; white-space: nowrap; }
thead th { border-bottom: 2px solid #666; vertical-align: bottom; white-space: pre-line; }
th:first-child, table.text :is(th, td) { text-align: left; }
table.text td { white-space: normal; min-width: 8rem; overflow-wrap: anywhere; }
tbody th { font-weight: 600; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; }
@media (max-width: 40rem) { figure img { max-width: none; width: 42rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; white-space: normal; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
""".strip()


def render(document: Document) -> str:
    """The page; pictures are data URIs, and there are no scripts."""
    title = escape(document.title)
    places = {id(heading.section): heading for heading in headings(document)}
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>\n{STYLE}\n</style>",
        "</head>",
        "<body>",
        f"<header>\n<h1>{title}</h1>\n</header>",
        "<main>",
        *(_block(block) for block in document.lead),
        '<nav aria-label="Contents">',
        "<h2>Contents</h2>",
        *_contents(document.sections, places),
        "</nav>",
    ]
    for section in document.sections:
        lines += _section(section, places)
    return "\n".join([*lines, "</main>", "</body>", "</html>", ""])


def _contents(sections: tuple[Section, ...], places: dict[int, Heading]) -> Iterator[str]:
    yield "<ul>"
    for section in sections:
        yield f'<li><a href="#{places[id(section)].anchor}">{escape(section.title)}</a>'
        within = tuple(block for block in section.blocks if isinstance(block, Section))
        if within:
            yield from _contents(within, places)
        yield "</li>"
    yield "</ul>"


def _section(section: Section, places: dict[int, Heading]) -> Iterator[str]:
    _, anchor, depth = places[id(section)]
    yield f'<section aria-labelledby="{anchor}">'
    yield f'<h{depth} id="{anchor}">{escape(section.title)}</h{depth}>'
    for block in section.blocks:
        if isinstance(block, Section):
            yield from _section(block, places)
        else:
            yield _block(block)
    yield "</section>"


def _block(block: Block) -> str:
    match block:
        case Paragraph(parts):
            return f"<p>{''.join(_part(part) for part in parts)}</p>"
        case Bullets(items):
            entries = "\n".join(f"<li>{escape(item)}</li>" for item in items)
            return f"<ul>\n{entries}\n</ul>"
        case Code(words):
            return f"<pre><code>{escape(words)}</code></pre>"
        case Table():
            return _table(block)
        case Figure(name, png, alt, caption):
            data = base64.b64encode(png).decode()
            return (
                f'<figure id="figure-{name}">\n<div class="wide"><img alt="{escape(alt)}" '
                f'src="data:image/png;base64,{data}"></div>\n'
                f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
            )


def _table(table: Table) -> str:
    kind = ' class="text"' if table.is_prose else ""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide">\n<table{kind}>\n<caption>{escape(table.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _part(part: str | Link) -> str:
    if isinstance(part, Link):
        return f'<a href="{escape(part.url)}">{escape(part.text)}</a>'
    return escape(part)
