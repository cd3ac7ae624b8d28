"""The two files of a report: whole, well-formed, and saying the same."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from matplotlib.image import imread
from mini import Mini
from studies import LAYERS, SOME, TABLES, write_simple, write_study

from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.models import registry
from lsam_jax.experiments.report import report
from lsam_jax.experiments.report.page import (
    Document,
    Figure,
    Section,
    Table,
    bullets,
    escaped,
    to_html,
    to_markdown,
)

VOID = {"meta", "img", "br"}
PAPER = "https://doi.org/10.1145/3637528.3671728"


class Page(HTMLParser):
    """What a page holds; raises where a tag is closed that is not open."""

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.tags = [], [], [], [], []
        self.rows, self.words, self.scopes = [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.scopes += [values["scope"]] if "scope" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.images += [values] if "src" in values else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "br" and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += "\n"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, words):
        self.words.append(words)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += words


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    study, out = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("out") / "new"
    write_study(study, SOME, TABLES[:2], layers=LAYERS[:3], epochs=8, points=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        assert main(["report", str(study), "--out", str(out), "--title", "A <b> & c"]) == 0
    assert not (study / "report.html").exists()
    return out


@pytest.fixture(scope="module")
def page(written):
    return Page((written / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_page_needs_nothing_beside_it(page):
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert {x for x in page.links if not x.startswith("#")} == {PAPER}
    assert len(page.images) > 15
    for image in page.images:
        kind, content = image["src"].split(",")
        assert kind == "data:image/png;base64"
        pixels = imread(io.BytesIO(base64.b64decode(content, validate=True)))
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 0.03  # something is drawn
        assert len(image["alt"]) > 20


@pytest.mark.slow
def test_ids_are_unique_and_every_anchor_leads_somewhere(page):
    assert len(set(page.ids)) == len(page.ids) > 15
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert set(anchors) <= set(page.ids)
    inside = [one for one in page.ids if one not in ("a-b--c", "contents")]
    assert inside == anchors  # each section is in the table of contents, in order
    assert [page.tags.count(tag) for tag in ("h1", "main", "nav")] == [1, 1, 1]


@pytest.mark.slow
def test_the_page_says_what_is_missing_and_how_to_repeat(page):
    words = " ".join(page.words)
    assert "A <b> & c" in words  # escaped, so it is text
    for expected in (
        "2,000 of the 50,000 training images",
        "resnet8 on digits",
        "the loss is not finite after step 42",
        "lsam-jax reproduce table1 table3",
        "a <CPU> & more",
        "no best epoch is ever chosen",
    ):
        assert expected in words
    assert ["looksam/seed1", "unreadable", "line 3 of metrics.jsonl is not a record"] in page.rows
    assert ["lsam-low/seed2", "unfinished", "unfinished at epoch 1 of 8"] in page.rows


@pytest.mark.slow
def test_both_files_hold_the_same_tables_and_pictures(written, page):
    source = (written / "report.md").read_text(encoding="utf-8")
    lines = [line for line in source.splitlines() if line.startswith("| ")]
    rows = [
        [re.sub(r"\\(.)", r"\1", cell).replace("<br>", "\n") for cell in line[2:-2].split(" | ")]
        for line in lines
    ]
    assert rows == page.rows
    linked = re.findall(r"^!\[.*\]\((.*)\)$", source, re.MULTILINE)
    assert len(linked) == len(page.images)
    for path, image in zip(linked, page.images, strict=True):
        content = base64.b64decode(image["src"].partition(",")[2])
        assert (written / path).read_bytes() == content
    assert {f"report/{path.name}" for path in (written / "report").iterdir()} == set(linked)


@pytest.mark.slow
def test_markdown_anchors_are_those_of_its_headings(written):
    source = (written / "report.md").read_text(encoding="utf-8")
    titles = re.findall(r"^##+ (.*)$", source, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    anchors = re.findall(r"^ *- \[.*\]\(#(.*)\)$", source, re.MULTILINE)
    assert len(anchors) > 10
    assert set(anchors) <= slugs


def test_a_report_replaces_the_old_one_and_finds_the_same_runs(tmp_path):
    write_simple(tmp_path, "sam", (0.7, 0.8))
    first = report(tmp_path)
    before = first.markdown.read_text()
    assert report(tmp_path) == first  # pictures of the first are no runs
    assert first.markdown.read_text() == before


EVERYTHING = Document(
    "T|1",
    (escaped("a *b* <c> &lt; & d"), "see [x & y](https://a.b/?c=1&d=2)"),
    (
        Section("Same", (bullets(("one_two", "three")), Section("Same", ("```sh\na < b\n```",)))),
        Section(
            "Same!",
            (
                Table("cap", ("n", "v\nw"), (("<r>|1", "<2>"),)),
                Figure("f", b"png", 'an "alt"', "caption"),
            ),
        ),
    ),
)


def test_html_escapes_all_text_and_headings_of_one_name_have_anchors_of_their_own():
    page = Page(to_html(to_markdown(EVERYTHING, "pictures"), {"pictures/f.png": b"png"}))
    assert page.ids == ["t1", "contents", "same", "same-1", "same-2"]
    assert page.scopes == ["col", "col", "row"]
    assert {"T|1", "a *b* <c> &lt; & d", "one_two", "a < b\n"} <= set(page.words)
    assert page.links == ["https://a.b/?c=1&d=2", "#same", "#same-1", "#same-2"]
    assert page.rows == [["n", "v\nw"], ["<r>|1", "<2>"]]
    assert page.images[0]["alt"] == 'an "alt"'
    assert "b" not in page.tags
    assert {"h2", "h3"} <= set(page.tags)


def test_markdown_escapes_what_it_would_read_as_markup():
    source = to_markdown(EVERYTHING, "pictures")
    assert EVERYTHING.figures() == [EVERYTHING.sections[1].blocks[1]]
    for expected in (
        "# T\\|1",
        "a \\*b\\* \\<c\\> \\&lt; & d",
        "  - [Same](#same-1)\n- [Same!](#same-2)",
        "[x & y](https://a.b/?c=1&d=2)",
        "- one\\_two\n- three",
        "```sh\na < b\n```",
        "| n | v<br>w |\n|:--|--:|\n| \\<r\\>\\|1 | \\<2\\> |\n\n*cap*",
        '![an "alt"](pictures/f.png)',
    ):
        assert expected in source


@pytest.mark.slow
def test_a_real_run_has_a_report(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(datasets.LOADERS, "digits", lambda data_dir: small)
    monkeypatch.setitem(registry.ARCHITECTURES, "resnet8", registry.Architecture(Mini))
    settings = ["--epochs", "2", "--set", "batch_size=32", "--log", "json"]
    train = ["train", "digits-resnet8", "--method", "sgd", *settings]
    assert main([*train, "--out", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert "report.html" in capsys.readouterr().out
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    (row,) = [row for row in page.rows if row[0] == "SGD" and "baseline" in row]
    assert re.fullmatch(r"\d+\.\d\d", row[2])
    assert "jax" in {row[0] for row in page.rows}  # of the environment
