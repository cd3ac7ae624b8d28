"""The throughput that the layer-wise SAM paper reports (Lee, KDD 2024, Table 2).

Training, on two NVIDIA RTX A6000 with half of the batch each; not measured here.
"""

from collections.abc import Mapping

from lsam_jax.experiments.published import TABLE1

PRESETS: Mapping[str, str] = {
    "resnet20": "cifar10-resnet20",
    "wrn28_10": "cifar100-wrn28-10",
    "wrn16_2": "flowers102-wrn16-2",
    "vit_b16": "cifar100-vit-b16-head",
}
"""In which the paper trains each model."""

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
    row = TABLE1.get(PRESETS.get(model, ""), {})
    own, plain = (row[name].throughput if name in row else None for name in (method, "sgd"))
    if own is None or plain is None:
        return None
    return {"images_per_second": own, "ratio": plain / own}
