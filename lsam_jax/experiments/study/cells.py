"""The runs that studies are made of: methods with their settings, at a scale.

A cell is run with several seeds, into a directory of its name; one that several tables need is run
once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.presets import Preset
from lsam_jax.experiments.training.dry_run import OUTLINES

SCALES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    # SGD must fit all training images, on one core and in minutes: where it does not, a method
    # that slows training can only lose.
    "cpu": {
        "images": 1280,
        "validation_images": 5000,
        "image_size": 16,
        "augment": False,
        "epochs": 10,
        "passes": 3,
        "batch_size": 64,
    },
}
"""What differs from a preset."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A method with its settings.

    Attributes:
        label: What tables call it.
        method: One of `methods.METHODS`.
        settings: Beyond those of the preset: fields of `Config`, and options of the method.
        length: Of the run, relative to the preset's.
    """

    label: str
    method: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    length: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether it is the preset's method as it is."""
        return not self.settings and self.length == 1

    def configure(self, preset: Preset, shared: Mapping[str, Any]) -> Config:
        """The configuration, with seed 0.

        Raises:
            ValueError: When a value makes no sense.
        """
        config = preset.configure(self.method, **{**shared, **self.settings})
        return dataclasses.replace(config, epochs=self.length * config.epochs)


METHODS: Mapping[str, Cell] = {
    "sgd": Cell("SGD", "sgd"),
    "gsam": Cell("generalized SAM", "generalized_sam"),
    "looksam": Cell("LookSAM", "look_sam"),
    "lsam": Cell("layer-wise SAM", "layerwise_sam"),
    "sam": Cell("SAM", "sam"),
    "momentum_sam": Cell("Momentum-SAM", "momentum_sam"),
    "esam": Cell("ESAM", "esam"),
    "lsam-budget10": Cell("layer-wise SAM, budget 10 %", "layerwise_sam", {"budget": 0.10}),
    "lsam-budget25": Cell("layer-wise SAM, budget 25 %", "layerwise_sam", {"budget": 0.25}),
    "sgd-x2": Cell("SGD, twice as long", "sgd", length=2),
}
"""Of Table 1 and beyond."""

VARIANTS: Mapping[str, Cell] = {
    "lsam-random": Cell("random layers", "layerwise_sam", {"selection": "random"}),
    "lsam-low": Cell("layers of low norm", "layerwise_sam", {"selection": "low"}),
    **{f"lsam-k{k}": Cell(f"k={k}", "layerwise_sam", {"k": k}) for k in (1, 2, 4, 8)},
}
"""Of Tables 3 and 4."""

_AROUND = {
    False: ((0.05, 0.8), (0.2, 0.8), (0.5, 0.8), (0.1, 1.0)),
    True: ((0.05, 0.8), (0.1, 0.8), (0.2, 0.8), (0.1, 1.0)),
}
GRID: Mapping[str, Cell] = {
    f"lsam-{'normalised' if normalize else 'plain'}-rho{rho:g}-alpha{alpha:g}": Cell(
        f"rho={rho:g}, alpha={alpha:g}{', normalised' if normalize else ''}",
        "layerwise_sam",
        {"rho": rho, "alpha": alpha, "normalize": normalize},
    )
    for normalize, pairs in _AROUND.items()
    for rho, alpha in pairs
}
"""Layer-wise SAM's own hyper-parameters around the paper's."""

CELLS: Mapping[str, Cell] = {**METHODS, **VARIANTS, **GRID}


def misfit(config: Config) -> str:
    """Which size the data do not have, in words; "" where they have all, or are not known."""
    known = OUTLINES.get(config.data)
    if known is None:
        return ""
    for name in ("images", "validation_images"):
        asked, there = getattr(config, name), getattr(known, name)
        if asked is not None and asked > there:
            return f"{name}={asked} is above the {there} of {config.data}"
    if config.image_size is not None and known.shape[-1] != 3:
        return f"image_size={config.image_size} needs three channels, and {config.data} has one"
    return ""


def changes(preset: Preset, config: Config) -> list[str]:
    """What a scale changes of a preset's recipe, in words, so that no table is without it."""
    whole, said = preset.config, []
    if config.images is not None:
        known = OUTLINES[config.data].images
        said.append(f"{config.images:,} of the {known:,} training images")
    if config.validation_images is not None:
        said.append(f"the first {config.validation_images:,} validation images")
    if config.label_noise:
        said.append(f"{100 * config.label_noise:g} % of the training labels drawn anew")
    if not config.augment:
        said.append("no augmentation")
    if config.epochs * config.passes != whole.epochs * whole.passes:
        said.append(
            f"{config.epochs * config.passes} passes over the training images instead of "
            f"{whole.epochs * whole.passes}"
        )
    names = {
        "width": "channels in the first stage",
        "batch_size": "images in a batch",
        "image_size": "height and width of an image",
    }
    apart = ("images", "validation_images", "label_noise", "augment", "epochs", "passes")
    told = {*apart, "method", "options", "seed"}
    for field in dataclasses.fields(Config):
        new, old = getattr(config, field.name), getattr(whole, field.name)
        if field.name not in told and new != old:
            was = "its own" if old is None else old
            said.append(f"{names.get(field.name, field.name)}: {new} instead of {was}")
    return said
