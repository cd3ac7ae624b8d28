"""What all pictures share: colours of methods, panels of a few lines, files in memory."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from PIL import Image

from lsam_jax.experiments.plotting import COLOURS, LINES
from lsam_jax.experiments.report.numbers.groups import Group

BASELINE = "0.15"
MARKERS = ("o", "s", "^", "D", "v", "<")
OTHERS = 5
"""Methods in a panel, besides the baseline."""


Style: TypeAlias = Mapping[str, Any]
"""Of a line, as matplotlib takes it; colour and dashes each tell methods apart."""
STYLES: list[Style] = [
    {"color": colour, "linestyle": LINES[(i + 1) % len(LINES)]} for i, colour in enumerate(COLOURS)
]


def by_panel(groups: Sequence[Group]) -> list[list[tuple[Group, Style]]]:
    """A few methods each, with the first run of SGD, if there is one, in all of them."""
    first = next((group for group in groups if group.is_sgd), None)
    rest = [group for group in groups if group is not first]
    base = [] if first is None else [(first, {"color": BASELINE, "linestyle": "-"})]
    chunks = [rest[i : i + OTHERS] for i in range(0, len(rest), OTHERS)] or [[]]
    return [[*base, *zip(chunk, STYLES, strict=False)] for chunk in chunks]


def png(figure: Figure) -> bytes:
    """The picture as a file; 256 colours take a third of the bytes, and show the same."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=130, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
    return file.getvalue()


def seeds_text(groups: Sequence[Group]) -> str:
    """How many seeds lines are of."""
    counts = sorted({len(group.runs) for group in groups})
    if counts == [1]:
        return "one seed"
    return f"mean and range over {' or '.join(map(str, counts))} seeds"
