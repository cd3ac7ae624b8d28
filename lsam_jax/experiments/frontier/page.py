"""What was found, as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lsam_jax.experiments import files
from lsam_jax.experiments.frontier import picture
from lsam_jax.experiments.frontier.contenders import SAM, SGD
from lsam_jax.experiments.frontier.costs import of_steps
from lsam_jax.experiments.frontier.ledger import Ledger
from lsam_jax.experiments.frontier.regimes import REGIMES, TUNING_SEEDS, Regime
from lsam_jax.experiments.frontier.results import Result, kinds, results
from lsam_jax.experiments.plotting import png
from lsam_jax.experiments.report import page
from lsam_jax.experiments.report.page import Columns, Document, Figure, Section, Table, escaped
from lsam_jax.experiments.statistics import (
    NOTHING,
    difference_text,
    interval_text,
    p_text,
    spread_text,
)

PRICE, SHARE, LEAST = 1.15, 0.90, 0.75
"""What is looked for: at most this cost, at least this share of SAM's gain, surely above that."""


def write(directory: Path) -> Path:
    """Turns the ledgers of a directory into ``frontier.html``, ``frontier.md`` and a picture.

    Returns:
        The HTML file.

    Raises:
        ValueError: When no regime has runs of both SGD and SAM yet.
    """
    ledgers = {name: Ledger(directory / f"{name}.jsonl") for name in REGIMES}
    found = {
        name: results(ledger, _costs(directory, REGIMES[name]), REGIMES[name].contenders)
        for name, ledger in ledgers.items()
    }
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        raise ValueError(f"{str(directory)!r} has no regime with runs of both SGD and SAM")
    html, *_ = page.write(compose(found, ledgers), directory, "frontier", ".")
    return html


def compose(found: Mapping[str, Sequence[Result]], ledgers: Mapping[str, Ledger]) -> Document:
    """The page: a picture and what was found first, then a table for each regime."""
    titles = {name: REGIMES[name].title for name in found}
    drawn = picture.draw({titles[name]: rows for name, rows in found.items()})
    figure = Figure(
        "frontier",
        png(drawn),
        "Accuracy against the cost of training, a point for each method",
        "Mean and standard deviation over seeds; dotted: the levels of plain training and of SAM. "
        "Grey: the methods of the tables below that the picture does not name.",
    )
    said = tuple(escaped(_finding(titles[name], rows)) for name, rows in found.items())
    sections = tuple(
        Section(titles[name], (_accuracies(REGIMES[name], rows), _radii(rows, ledgers[name])))
        for name, rows in found.items()
    )
    title = "How much of SAM's gain does each cheaper method keep, and at which price?"
    return Document(title, (figure, *said), sections)


def _finding(title: str, rows: Sequence[Result]) -> str:
    """In three sentences."""
    by_name = {row.contender.name: row for row in rows}
    sgd, sam = by_name[SGD], by_name[SAM]
    plain, most = (f"{one.contender.label} {spread_text(one.last, 1, 100)} %" for one in (sgd, sam))
    gain = f"{plain}, {most}"
    there = [r for r in rows if r.contender.name not in (SGD, SAM) and r.cost <= PRICE]
    if sam.difference.low is None or sam.difference.low <= 0:
        return f"{title}: {gain}. So SAM's gain is not told from nothing, and no share of it is."
    if not there:
        return (
            f"{title}: {gain}. No method at a cost of {PRICE} or less has been run (costs: "
            f"{kinds(rows)})."
        )
    best = max(there, key=lambda row: row.kept.share)
    words = (
        f"{title}: {gain}. At a cost of at most {PRICE} (costs: {kinds(rows)}), "
        f"{best.contender.label} keeps most of the gain, {_kept_text(best)} %, at {best.cost:.2f}, "
        f"{best.kind}."
    )
    sure = best.kept.share >= SHARE and best.kept.low is not None and best.kept.low > LEAST
    goal = f"{SHARE:.0%}, surely above {LEAST:.0%}"
    reached = f"reached at a {best.kind} cost" if sure else "not reached"
    return f"{words} What was looked for, {goal}, is {reached}."


def _kept_text(row: Result) -> str:
    share = f"{100 * row.kept.share:.0f}"
    if row.kept.low is None or row.kept.high is None:
        return share
    return f"{share} ({100 * row.kept.low:.0f} to {100 * row.kept.high:.0f})"


def _accuracies(regime: Regime, rows: Sequence[Result]) -> Table:
    seeds = sorted({row.last.n for row in rows})
    words = (
        f"Accuracy (%) on clean test images, mean ± sample standard deviation of "
        f"{' or '.join(map(str, seeds))} seeds; best: of {regime.config.epochs} evaluations, "
        f"chosen by the test images. Kept: the share (%) of SAM's gain over {regime.plain}, with "
        f"Fieller's 95 % interval. Difference from {regime.plain} in percentage points, paired by "
        "seed, with its 95 % interval and the t-test's p after Holm. Cost of the run: counted in "
        "plain gradients, and measured. Fitted: of the training labels as given (%). Layers that a "
        "method draws at random are the same for all seeds."
    )
    columns: Columns = {
        "method": lambda row: row.contender.label,
        "last": lambda row: spread_text(row.last, 1, 100),
        "best": lambda row: spread_text(row.best, 1, 100),
        "kept": _kept_text,
        f"over {regime.plain}": lambda row: difference_text(row.difference, 1, 100),
        "95 % interval": lambda row: (
            interval_text(row.difference, 1, 100) if row.contender.name != SGD else NOTHING
        ),
        "p (Holm)": lambda row: p_text(row.p),
        "cost,\ncounted": lambda row: f"{row.counted:.2f}",
        "cost,\nmeasured": lambda row: (
            NOTHING if row.measured is None else f"{row.measured * row.contender.length:.2f}"
        ),
        "fitted": lambda row: spread_text(row.fitted, 1, 100),
    }
    return Table.of(words, rows, columns)


def _radii(rows: Sequence[Result], ledger: Ledger) -> Table:
    """Every radius that was tried."""
    words = (
        "Radii that were tried on held-out training images: accuracy (%) on their clean labels, "
        "and on noisy ones, mean of two seeds; in the order of the radius. The first decides."
    )

    def tried(row: Result) -> str:
        name = row.contender.name
        return ", ".join(_tried(ledger, name, rho) for rho in ledger.tuned_radii(name))

    columns: Columns = {
        "method": lambda row: row.contender.label,
        "chosen": lambda row: f"{row.rho:g}",
        "radius: clean / noisy": tried,
    }
    tuned = [row for row in rows if ledger.tuned_radii(row.contender.name)]
    return Table.of(words, tuned, columns, is_prose=True)


def _tried(ledger: Ledger, name: str, rho: float) -> str:
    clean, noisy = (
        100 * ledger.mean_tuned(name, rho, TUNING_SEEDS, of)
        for of in ("accuracy", "noisy_accuracy")
    )
    return f"{rho:g}: {clean:.1f} / {noisy:.1f}"


def _costs(directory: Path, regime: Regime) -> dict[str, float]:
    measured = files.read_json(directory / f"{regime.name}-costs.json")
    return {} if measured is None else of_steps(measured, regime.contenders)
