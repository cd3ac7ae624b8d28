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


class Published(NamedTuple):
    """A number of the paper.

    Attributes:
        accuracy: In %.
        std: Its spread, in points.
        throughput: Images per second, where the paper gives it.
    """

    accuracy: float
    std: float
    throughput: float | None


Numbers = Mapping[str, Mapping[str, Published]]
"""By preset, and by row of its table."""


def _table(number: str) -> Numbers:
    found: dict[str, dict[str, Published]] = defaultdict(dict)
    with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["table"] == number:
                speed = float(row["throughput"]) if row["throughput"] else None
                published = Published(float(row["accuracy"]), float(row["std"]), speed)
                found[row["preset"]][row["row"]] = published
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
