"""The paper's benchmarks by name, and a small one on bundled data.

All recipes are those of Lee, `Layer-wise Adaptive Gradient Norm Penalizing Method for Efficient
and Accurate Deep Learning <https://doi.org/10.1145/3637528.3671728>`_ (KDD 2024), section 4, and
of the author's related public code where the paper is silent. What neither says is chosen here
and listed as assumed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.overrides import FIELDS
from lsam_jax.experiments.config.paper_results import TABLE1
from lsam_jax.experiments.config.shared_options import SharedOptions


@dataclasses.dataclass(frozen=True)
class Preset:
    """A benchmark.

    Attributes:
        name: On the command line.
        source: Where the recipe is from.
        config: The recipe of all methods.
        methods: The options of each method: the paper's hyper-parameters. SAM is not in its table
            and keeps its own paper's radius.
        assumed: What the source does not say and this preset chose.
    """

    name: str
    source: str
    config: Config
    methods: Mapping[str, Mapping[str, Any]]
    assumed: tuple[str, ...] = ()

    @property
    def published(self) -> dict[str, float]:
        """Validation accuracy in the paper, in %, by method. Not measured here."""
        return {method: row["accuracy"] for method, row in TABLE1.get(self.name, {}).items()}

    def configure(self, method: str, **settings: Any) -> Config:
        """The configuration of a run.

        Args:
            method: One of `methods.METHODS`.
            **settings: Fields of `Config`, and options of the method, that differ from the
                preset's; where one makes the radius set itself, the preset's is left out.

        Raises:
            ValueError, TypeError: When a value makes no sense, or a name is neither a field nor an
                option of `method`.
        """
        fields = {name: value for name, value in settings.items() if name in FIELDS}
        options = {name: value for name, value in settings.items() if name not in FIELDS}
        own = dict(self.methods.get(method, {}))
        if SharedOptions.of(options).sets_radius:
            own.pop("rho", None)
        return dataclasses.replace(self.config, method=method, options=own | options, **fields)


_PAPER = "Lee, KDD 2024"


def _methods(k: int, every: int | None = None, alpha: float = 0.8) -> dict[str, dict[str, Any]]:
    """The hyper-parameters of section 4.2, where only these differ between the benchmarks."""
    look_sam = {} if every is None else {"look_sam": {"every": every, "rho": 0.1, "alpha": alpha}}
    return {
        "sgd": {},
        "sam": {"rho": 0.05},
        "generalized_sam": {"rho": 0.1, "alpha": alpha},
        **look_sam,
        "layerwise_sam": {"k": k, "rho": 0.1, "alpha": alpha},
    }


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="digits-resnet8",
            source="this project: scikit-learn's digits, for a first look within a minute; the "
            f"hyper-parameters of {_PAPER} for CIFAR-10, with k and epochs for a smaller network",
            config=Config(),
            methods=_methods(k=2),
        ),
        Preset(
            name="noisy-digits-resnet8",
            source="this project: scikit-learn's digits, 40 % of their labels drawn anew; SGD "
            "learns them by heart; radii chosen on 300 training images with other seeds "
            "(results/compare/tune.py)",
            config=Config(
                label_noise=0.4, epochs=30, batch_size=128, weight_decay=5e-4, label_smoothing=0.0
            ),
            methods={
                "sgd": {},
                "sam": {"rho": 0.6},
                "layerwise_sam": {
                    "k": 4,
                    "rho": 1.4,
                    "alpha": 1.0,
                    "normalize": True,
                    "ascent_batch": 1 / 16,
                },
                "stale": {"rho": 0.8},
            },
        ),
        Preset(
            name="cifar10-resnet20",
            source=f"{_PAPER}, Table 1, row 1",
            config=Config(
                data="cifar10",
                model="resnet20",
                epochs=150,
                batch_size=128,
                learning_rate=0.1,
                decay_at=(100 / 150, 130 / 150),
                weight_decay=2e-4,
            ),
            methods=_methods(k=4, every=3),
        ),
        Preset(
            name="cifar100-wrn28-10",
            source=f"{_PAPER}, Table 1, row 2",
            config=Config(
                data="cifar100",
                model="wrn28_10",
                epochs=200,
                batch_size=128,
                learning_rate=0.1,
                decay_at=(150 / 200, 180 / 200),
                weight_decay=1e-3,
            ),
            methods=_methods(k=4, every=2),
        ),
        Preset(
            name="flowers102-wrn16-2",
            source=f"{_PAPER}, Table 1, row 3",
            config=Config(
                data="oxford_flowers102",
                model="wrn16_2",
                epochs=100,
                batch_size=40,
                learning_rate=0.1,
                decay_at=(0.75, 0.9),
                weight_decay=1e-3,
            ),
            methods=_methods(k=2, every=3, alpha=0.7),
            assumed=(
                "images of 32x32 pixels",
                "decay_at (the paper: twice)",
                "weight_decay (as for WRN-28-10)",
                "wrn16_2 and k=2 as in the text; the related code has wrn16_8 and k=8",
            ),
        ),
        Preset(
            name="cifar100-vit-b16-head",
            source=f"{_PAPER}, Table 1, row 4",
            config=Config(
                data="cifar100",
                model="vit_b16",
                epochs=10,
                batch_size=128,
                learning_rate=0.001,
                decay_at=(),
                weight_decay=0.0,
            ),
            methods=_methods(k=1, every=2),
            assumed=(
                "weight_decay=0, a constant learning rate, SGD with momentum",
                "768 units in the first new layer",
                "crop and flip at 32x32 pixels, then 224x224 by bilinear interpolation",
            ),
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ValueError: When there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
