"""What the layer-wise SAM paper reports, by preset; not measured here.

Lee, `Layer-wise Adaptive Gradient Norm Penalizing Method for Efficient and Accurate Deep Learning
<https://doi.org/10.1145/3637528.3671728>`_ (KDD 2024), section 4. Accuracies are on the validation
split in %, with their spread; throughput is in images per second on two A6000 GPUs. The numbers
stand in ``paper_results.csv``.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

Numbers = Mapping[str, float]
"""Of a row: "accuracy" in %, its spread "std" in points, and "throughput", images per second; those
that the paper gives."""
Tables = Mapping[str, Mapping[str, Numbers]]
"""By preset, and by row of its table."""


class Row(NamedTuple):
    """A row of a table, or a line of a figure.

    Attributes:
        run: What its runs are called.
        label: Of the row.
        published: The paper's; empty where it has none.
    """

    run: str
    label: str
    published: Numbers


def _table(number: str) -> Tables:
    found: dict[str, dict[str, Numbers]] = defaultdict(dict)
    with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["table"] == number:
                names = ("accuracy", "std", "throughput")
                numbers = {name: float(row[name]) for name in names if row[name]}
                found[row["preset"]][row["row"]] = numbers
    return dict(found)


TABLE1, TABLE3, TABLE4 = map(_table, "134")
"""Tables 1 (accuracy) and 2 (throughput): methods. 3: which layers are selected. 4: how many."""

INTERVAL: Mapping[str, int] = {
    "cifar10-resnet20": 3,
    "cifar100-wrn28-10": 4,
    "flowers102-wrn16-2": 3,
    "cifar100-vit-b16-head": 2,
}
"""LookSAM's in Table 2 (section 4.3; for its Figure 5 the paper names others)."""
