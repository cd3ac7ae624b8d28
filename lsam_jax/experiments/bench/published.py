"""The throughput that the layer-wise SAM paper reports (Lee, KDD 2024, Table 2).

Training, on two NVIDIA RTX A6000 with half of the batch each; not measured here.
"""

from collections.abc import Mapping
from types import MappingProxyType

IMAGES_PER_SECOND: Mapping[str, Mapping[str, float]] = {
    "resnet20": {"sgd": 659.2, "gsam": 459.5, "looksam": 595.2, "lsam": 604.2},
    "wrn28_10": {"sgd": 229.1, "gsam": 139.5, "looksam": 151.0, "lsam": 190.7},
    "wrn16_2": {"sgd": 604.2, "gsam": 401.9, "looksam": 473.6, "lsam": 463.4},
    "vit_b16": {"sgd": 77.28, "gsam": 49.82, "looksam": 50.32, "lsam": 53.97},
}
"""By model and by method."""

INTERVAL: Mapping[str, int] = {"resnet20": 3, "wrn28_10": 4, "wrn16_2": 3, "vit_b16": 2}
"""LookSAM's, for that table (section 4.3; for its Figure 5 the paper names others)."""

LAYERS: Mapping[str, int] = {"resnet20": 4, "wrn28_10": 4, "wrn16_2": 2, "vit_b16": 1}
"""Layer-wise SAM's k, likewise."""


def of(model: str, method: str) -> dict[str, float] | None:
    """Images a second, and the cost relative to SGD; None where the paper has no number.

    Example:
        >>> round(of("resnet20", "gsam")["ratio"], 2)
        1.43
    """
    row = IMAGES_PER_SECOND.get(model, MappingProxyType({}))
    if method not in row:
        return None
    return {"images_per_second": row[method], "ratio": row["sgd"] / row[method]}
