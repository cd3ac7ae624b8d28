"""What the layer-wise SAM paper reports, by preset; not measured here.

Lee, `Layer-wise Adaptive Gradient Norm Penalizing Method for Efficient and Accurate Deep Learning
<https://doi.org/10.1145/3637528.3671728>`_ (KDD 2024), section 4. Accuracies are on the validation
split in %, with their spread; throughput is in images per second on two A6000 GPUs.
"""

from collections.abc import Mapping
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
    throughput: float | None = None


TABLE1: Mapping[str, Mapping[str, Published]] = {
    "cifar10-resnet20": {
        "sgd": Published(91.96, 0.3, 659.2),
        "generalized_sam": Published(92.64, 0.4, 459.5),
        "look_sam": Published(92.14, 0.4, 595.2),
        "layerwise_sam": Published(92.81, 0.3, 604.2),
    },
    "cifar100-wrn28-10": {
        "sgd": Published(79.41, 0.4, 229.1),
        "generalized_sam": Published(80.83, 0.5, 139.5),
        "look_sam": Published(80.13, 0.3, 151.0),
        "layerwise_sam": Published(81.25, 0.4, 190.7),
    },
    "flowers102-wrn16-2": {
        "sgd": Published(69.82, 0.4, 604.2),
        "generalized_sam": Published(74.77, 0.5, 401.9),
        "look_sam": Published(73.53, 0.6, 473.6),
        "layerwise_sam": Published(75.56, 0.6, 463.4),
    },
    "cifar100-vit-b16-head": {
        "sgd": Published(90.73, 0.5, 77.28),
        "generalized_sam": Published(91.46, 0.9, 49.82),
        "look_sam": Published(91.15, 0.7, 50.32),
        "layerwise_sam": Published(91.36, 0.5, 53.97),
    },
}
"""Tables 1 (accuracy) and 2 (throughput): methods."""

TABLE3: Mapping[str, Mapping[str, Published]] = {
    "cifar10-resnet20": {
        "none": Published(91.63, 0.3),
        "high": Published(92.81, 0.3),
        "low": Published(91.40, 0.5),
        "random": Published(92.46, 0.2),
    },
    "cifar100-wrn28-10": {
        "none": Published(79.41, 0.4),
        "high": Published(81.25, 0.4),
        "low": Published(80.01, 0.9),
        "random": Published(80.67, 0.5),
    },
    "flowers102-wrn16-2": {
        "none": Published(69.82, 0.4),
        "high": Published(75.36, 0.6),
        "low": Published(71.76, 1.1),
        "random": Published(72.45, 0.9),
    },
}
"""Table 3: which layers are selected."""

TABLE4: Mapping[str, Mapping[int | str, Published]] = {
    "cifar10-resnet20": {
        1: Published(92.51, 0.5, 628.5),
        2: Published(92.57, 0.4, 617.0),
        4: Published(92.81, 0.3, 604.2),
        8: Published(92.77, 0.5, 564.5),
        "all": Published(92.64, 0.4, 459.5),
    },
    "cifar100-wrn28-10": {
        1: Published(80.12, 0.3, 229.1),
        2: Published(80.81, 0.7, 194.6),
        4: Published(81.25, 0.4, 190.7),
        8: Published(81.93, 0.5, 160.0),
        "all": Published(80.83, 0.5, 139.5),
    },
    "flowers102-wrn16-2": {
        1: Published(74.93, 0.5, 482.6),
        2: Published(75.56, 0.6, 463.4),
        4: Published(76.31, 1.1, 442.9),
        8: Published(76.70, 0.9, 427.5),
        "all": Published(74.77, 0.5, 401.9),
    },
}
"""Table 4: how many layers are selected."""


INTERVAL: Mapping[str, int] = {
    "cifar10-resnet20": 3,
    "cifar100-wrn28-10": 4,
    "flowers102-wrn16-2": 3,
    "cifar100-vit-b16-head": 2,
}
"""LookSAM's in Table 2 (section 4.3; for its Figure 5 the paper names others)."""
