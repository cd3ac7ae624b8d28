"""Numbers that pages quote are those that are stored."""

import json
import pathlib
import re
import statistics

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CHOOSE, FAQ = (ROOT / "docs" / f"{page}.md" for page in ("how-to-choose", "faq"))
FRONTIER = (ROOT / "results/frontier/frontier.md").read_text()
STUDY = (ROOT / "results/cifar10-cpu/report.md").read_text()
KEPT = re.compile(r"(-?\d+) ?%? \((-?\d+) to (-?\d+)\)")
SHARES = {"mlp": 0.4, "resnet": 0.4, "vit": 0.2}
METHODS = {
    "plain": "plain",
    "SAM by rise": "SAM, share {share}",
    "SAM on 1/8 by rise": "SAM, 1/8, share {share}",
    "layer-wise by rise": "layer-wise, share {share}",
    "layer-wise on 1/8 by rise": "layer-wise, 1/8, share {share}",
    "stale by rise": "stale, share {share}",
}


def rows(text):
    """The cells of each line of a table."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


PRICE, REGIME = CHOOSE.read_text().split("## Regime")
PRICES = [row for row in rows(PRICE) if row[0]]
ELSEWHERE = {row[0]: row[1:] for row in rows(REGIME) if len(row) == 5}


@pytest.mark.parametrize("name, kept, counted, measured, code", PRICES)
def test_prices_and_shares_are_the_frontiers(name, kept, counted, measured, code):
    digits = FRONTIER.partition("\n## CIFAR")[0]
    (row,) = (row for row in rows(digits) if row[0] == name and len(row) == 10)
    assert (row[3], *row[7:9]) == (kept, counted, measured)


@pytest.mark.parametrize("page", [CHOOSE, FAQ], ids=lambda page: page.stem)
def test_every_share_with_an_interval_is_the_frontiers(page):
    quoted = KEPT.findall(page.read_text().replace("\n", " "))
    assert set(quoted) <= set(KEPT.findall(FRONTIER))
    assert len(quoted) > 10


@pytest.mark.parametrize("regime", SHARES)
def test_accuracies_are_those_of_the_runs(regime):
    lines = (ROOT / f"results/rise/{regime}.jsonl").read_text().splitlines()
    runs, column = [json.loads(line) for line in lines], list(SHARES).index(regime)
    (fixed,) = {run["method"] for run in runs if run["method"].startswith("SAM, rho")}
    for name, method in {**METHODS, "SAM, fixed radius": fixed}.items():
        made = method.format(share=SHARES[regime])
        found = [run["accuracy"] for run in runs if run["method"] == made]
        assert len(found) == 5
        shown = [float(x) for x in ELSEWHERE[name][column].split(" ± ")]
        stored = [statistics.mean(found), statistics.stdev(found)]
        assert shown == pytest.approx(stored, abs=0.055)  # of accuracies with two decimals


def test_differences_are_the_studys():
    names = {"SAM, fixed radius": "SAM", "layer-wise, the paper's": "layer-wise SAM"}
    for name, (*_, shown) in ELSEWHERE.items():
        if "(" in shown:
            row = next(row for row in rows(STUDY) if row[0] == names.get(name, name))
            low, high = row[6].replace("\N{MINUS SIGN}", "-").replace("+", "").split(" to ")
            assert shown == f"{row[5]} ({low} to {high})"


def test_sharpness_over_a_run_is_that_of_the_runs():
    lines = (ROOT / "results/frontier/sharpness.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    table = rows((ROOT / "results/frontier/sharpness.md").read_text())
    found = [run["seen"] for run in runs if run["contender"] == "sam"]
    top = [[run[at]["wrong"]["top_eigenvalue"] for run in found] for at in (2, -1)]
    want = [f"{statistics.mean(x):.2f} ± {statistics.stdev(x):.2f}" for x in top]
    (sam,) = (row for row in table if row[0] == "SAM")
    assert len(found) == 3 and sam[5] == " → ".join(want)
    page = (ROOT / "docs/experiments.md").read_text()
    _, said = page.split("**Why some do not help.**")
    said = said.partition("**The paper's own questions")[0].replace("\n", " ")
    stored = [x.split(" ± ") for row in table[1:] for cell in row[1:] for x in cell.split(" → ")]
    quoted = re.findall(r"(\d+\.\d+) ± (\d+\.\d+)", said)
    assert len(quoted) > 5
    for mean, deviation in quoted:
        digits = len(mean.partition(".")[2])
        near = [(f"{float(m):.{digits}f}", f"{float(d):.{digits}f}") for m, d in stored]
        assert (mean, deviation) in near
