"""Numbers that pages quote are those that are stored."""

import json
import pathlib
import re
import statistics

import pytest

from lsam_jax.experiments.frontier.regimes import REGIMES
from lsam_jax.experiments.statistics import MINUS, difference_text, interval_text, kept, paired

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
    (digits,) = (of for of in FRONTIER.split("\n## ") if of.startswith(REGIMES["digits-40"].title))
    (row,) = (row for row in rows(digits) if row[0] == name and len(row) == 10)
    assert (row[3], *row[7:9]) == (kept, counted, measured)


@pytest.mark.parametrize("page", [CHOOSE, FAQ, ROOT / "README.md"], ids=lambda page: page.stem)
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


def final_runs(question):
    """Of the language model: what a final run measured, by what it is, radius and seed."""
    lines = (ROOT / f"results/language_model/{question}.jsonl").read_text().splitlines()
    found = {}
    for run in map(json.loads, lines):
        if "environment" not in run and not run["tuning"]:
            of = found.setdefault((run.get("method") or run["cell"], run["radius"]), {})
            of[run["seed"]] = run
    assert all(sorted(of) == [0, 1, 2, 3, 4] for of in found.values())
    return found


def shown_mean(found):
    return f"{statistics.mean(found.values()):.3f} ± {statistics.stdev(found.values()):.3f}"


def table_of(page, after):
    """The cells of the first table after some words."""
    text = (ROOT / "docs" / f"{page}.md").read_text().partition(after)[2]
    return rows(text[text.index("\n|") :].partition("\n\n")[0])


def test_losses_of_the_language_model_are_those_of_the_runs():
    found = {
        key: {seed: run["test"] for seed, run in of.items()}
        for key, of in final_runs("radius").items()
    }
    (fixed,) = (key for key in found if key[0] == "SAM, fixed")
    base, sam = found["AdamW", 0.0], found[fixed]
    looks = {seed: run["eighths"] for seed, run in final_runs("radius")["AdamW", 0.0].items()}
    early = {s: min(of, key=lambda x: x["validation"])["test"] for s, of in looks.items()}
    assert f"it is at {shown_mean(early)}," in (ROOT / "docs/radius.md").read_text()
    plain, *table = table_of("radius", "**A byte-level language model**")[1:]
    best = f"SAM at its best fixed radius, {fixed[1]}: {shown_mean(sam)}"
    assert plain[0] == f"AdamW: {shown_mean(base)}; {best}"
    assert len(table) == 6
    for method, *cells in table:
        for share, cell in zip((0.4, 0.2, 0.1), cells, strict=True):
            losses = found[method, share]
            of = kept(losses, base, sam)
            shares = f"{100 * of.share:.0f} ({100 * of.low:.0f} to {100 * of.high:.0f})"
            assert cell == f"{shown_mean(losses)}; {shares}"


@pytest.mark.parametrize("table", [0, 1])
def test_what_is_forgotten_and_rounded_away_are_those_of_the_runs(table):
    columns = [["prose before", "prose", "forgotten", "code"]]
    columns += [["prose, 8 bits", "code, 8 bits", "prose, 4 bits", "code, 4 bits"]]
    found = final_runs("forgetting")
    for of in found.values():
        for run in of.values():
            run["forgotten"] = run["prose"] - run["prose before"]
    after = "## What SAM does to forgetting and rounding", "Rounded"
    lines = table_of("experiments", after[table])[1:]
    assert len(lines) == len(found)
    for name, *cells in lines:
        cell, _, radius = name.partition(", ")
        runs, base = found[cell, float(radius or 0)], found["AdamW / AdamW", 0.0]
        for what, shown in zip(columns[table], cells, strict=True):
            ours, theirs = ({s: r[what] for s, r in of.items()} for of in (runs, base))
            by = paired(ours, theirs)
            beside = f", {difference_text(by, 3)} ({interval_text(by, 3)})"
            expected = shown_mean(ours) + (beside if radius else "")
            assert shown == expected.replace(MINUS, "-")
