"""The page of a method: its docstring, symbols, costs, results, and where codes deviate.

Nothing is written twice: symbols and deviations stand in `method_notes`, costs in `methods.md`, and
results in the frontier's own page.
"""

import re
from pathlib import Path

import lsam_jax as lsam
from lsam_jax.experiments.config.methods import METHODS
from lsam_jax.experiments.frontier.contenders import CONTENDERS
from lsam_jax.experiments.frontier.regimes import REGIMES

HERE = Path(__file__).parent
LABELS = {name: family.label for name, family in METHODS.items() if name in lsam.__all__}
LABELS |= {"flat_lora": "Flat-LoRA"}
NORM = "&#124;&#124;.&#124;&#124;"  # a bar would end the cell
COMMON = {
    "w": ("the weights", ""),
    "g": ("the gradient of the loss at w", ""),
    "h": ("the gradient at the perturbed weights, of the same batch and random keys", ""),
    "rho": ("the radius", "`rho`"),
    NORM: ("the Euclidean norm, over all perturbed arrays where nothing else is said", ""),
}
"""Symbols that mean the same in most formulas; a method's note may say otherwise."""

SHOWN = {
    "digits-40": "digits 40 %",
    "digits-20": "20 %",
    "digits-60": "60 %",
    "cifar-40": "CIFAR-10 40 %",
    "vit-40": "transformer 40 %",
}
"""The regimes of the frontier in which SAM gains something, and what tables call them."""


def rows(text: str) -> list[list[str]]:
    """The cells of the lines of tables."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def table(head: str, body: list[list[str]]) -> str:
    """A table in Markdown."""
    cells = head.split(", ")
    lines = [cells, ["---"] * len(cells), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def symbols(name: str, own: list[list[str]]) -> str:
    """What the formula of a docstring is made of."""
    formula = (getattr(lsam, name).__doc__ or "").partition("Args:")[0]
    found = {row[0]: row[1:] for row in own}
    common = {
        symbol: list(said)
        for symbol, said in COMMON.items()
        if re.search(r"\|\|" if symbol == NORM else rf"(?<![\w.]){symbol}\b(?!_)", formula)
    }
    body = [[symbol, *said] for symbol, said in {**common, **found}.items()]
    return table("symbol, what it is, argument", body) if body else ""


def priced(name: str, cell: str) -> bool:
    """Whether a row of the table of all methods is of this one; `stale` is a part of its rows."""
    return f"`{name}`" in cell or (f"{name}(" if name == "stale" else f"`{name}(") in cell


def cost(name: str) -> str:
    """The rows of the table of all methods that are of this one."""
    body = [row for row in rows((HERE / "methods.md").read_text()) if len(row) == 5]
    body = [[row[0], *row[1:4]] for row in body if priced(name, row[0])]
    if not body:
        return ""
    said = "On a dense network, and on a ResNet-8: [how it was counted, measured](../methods.md).\n"
    return f"{table('setting, gradients a step, counted, measured', body)}\n{said}"


def results(name: str) -> str:
    """What the frontier says of this method."""
    page = (HERE.parent / "results/frontier/frontier.md").read_text()
    sections = dict(text.split("\n", 1) for text in page.split("\n## ")[1:])
    of = [
        {row[0]: row for row in rows(sections.get(REGIMES[regime].title, "")) if len(row) == 10}
        for regime in SHOWN
    ]
    labels = (one.label for one in CONTENDERS if one.method == name and one.label in of[0])
    nothing = [""] * 10
    body = [
        [label, *(there.get(label, nothing)[3] for there in of), *of[0][label][7:9]]
        for label in labels
    ]
    if not body:
        return ""
    said = (
        "A part of the training labels drawn anew, 3 to 10 seeds, a ResNet-8 and SGD or a "
        "transformer (of digits) and AdamW; the share (%) of SAM's gain over them that is kept, "
        "with its 95 % interval; costs of a step of the ResNet relative to SGD's, with 40 % noise "
        "on digits ([the frontier](../frontier.md)).\n"
    )
    head = ", ".join(("setting", *SHOWN.values(), "counted", "measured"))
    return f"{said}\n{table(head, body)}"


def page(name: str) -> str:
    """A method's page."""
    label = "" if LABELS[name] == name else f" ({LABELS[name]})"
    note = HERE / "method_notes" / f"{name}.md"
    own, mark, deviations = (note.read_text() if note.exists() else "").partition("## ")
    sections = {
        "Symbols": symbols(name, [row for row in rows(own) if row[0] != "symbol"]),
        "Cost": cost(name),
        "What it kept of SAM's gain": results(name),
    }
    text = f"# {name}{label}\n\n::: lsam_jax.{name}\n"
    text += "".join(f"\n## {title}\n\n{body}" for title, body in sections.items() if body)
    return f"{text}\n{mark}{deviations}"
