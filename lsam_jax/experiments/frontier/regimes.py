"""On what the contenders are compared."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.config.presets import PRESETS
from lsam_jax.experiments.frontier.contenders import CONTENDERS, SAM, SGD, Contender, rounded

TUNING_SEEDS = (100, 101)
"""Of the runs that choose the radius, on images held out of the training images."""

QUOTED = (
    *(SGD, SAM, "sam-1/8", "layers-4-1/8", "stale", "momentum", "layers-4-paper", "last-fifth"),
    *("sam-1/8-rise", "layers-4-1/8-rise", "stale-rise", "only-first-third", "only-last-third"),
)
"""Those whose numbers the README says, which more seeds run."""

FEW = (
    *QUOTED,
    *("layers-4", "sam-rise", "every-2", "every-5", "look", "esam", "budget-25"),
)
"""Those of the regimes whose runs take minutes; by name."""

GENTLE = Contender(
    "sam-1/8-rise-0.1",
    "SAM on 1/8, by rise, share 0.1",
    "sam",
    {"ascent_batch": 1 / 8, "rise_share": 0.1},
)
"""By the share that is for clean labels."""

CLEAN = (
    *(SGD, SAM, "sam-1/8", "layers-4-1/8", "momentum"),
    *("sam-1/8-rise", "layers-4-1/8-rise", "stale-rise"),
)
"""Those of them where labels are clean, and there is little to tell apart."""


class Regime(NamedTuple):
    """A task, and how it is run.

    Attributes:
        name: Of its ledger.
        title: What it is, with its scale.
        config: Of all contenders, but for the method.
        held_out: How many of the training images choose the radius.
        seeds: Of the final runs.
        contenders: Who takes part, in the order in which they are run.
        more_seeds: Beside `seeds`, of the contenders that the README quotes.
    """

    name: str
    title: str
    config: Config
    held_out: int
    seeds: tuple[int, ...]
    contenders: tuple[Contender, ...] = CONTENDERS
    more_seeds: tuple[int, ...] = ()

    @property
    def plain(self) -> str:
        """What the optimizer alone is called."""
        return next(one.label for one in self.contenders if one.name == SGD)

    def seeds_of(self, contender: Contender) -> tuple[int, ...]:
        """Of a contender's final runs."""
        return self.seeds + (self.more_seeds if contender.name in QUOTED else ())

    def configure(self, contender: Contender, rho: float | None, seed: int) -> Config:
        """A contender's run; the radius is None where it has none to choose."""
        options = dict(contender.options) | ({} if rho is None else {"rho": rho})
        epochs = contender.length * self.config.epochs
        return dataclasses.replace(
            self.config, method=contender.method, options=options, seed=seed, epochs=epochs
        )


def _regime(name: str, noise: int, title: str, held_out: int, seeds: int, **task: Any) -> Regime:
    """Thirty passes where nothing else is said, with ten evaluations."""
    config = dataclasses.replace(
        PRESETS["noisy-digits-resnet8"].config,
        **{"label_noise": noise / 100, "epochs": 10, "passes": 3, **task},
    )
    passes = config.epochs * config.passes
    says = f"{title}, {noise} % of their labels drawn anew; ResNet-8, {passes} passes"
    return Regime(f"{name}-{noise}", says, config, held_out, tuple(range(seeds)))


def _digits(noise: int) -> Regime:
    return _regime("digits", noise, "digits, 1,200 images", 300, 5, batch_size=64)


_CIFAR = {"data": "cifar10", "batch_size": 64, "validation_images": 5000, "image_size": 16}


def _cifar(noise: int) -> Regime:
    title, task = "CIFAR-10, 5,000 images of 16x16 pixels", _CIFAR | {"augment": False}
    whole = _regime("cifar", noise, title, 1000, 3, images=5000, **task)
    return whole._replace(contenders=_named(FEW) if noise else (*_named(CLEAN), GENTLE))


def _mirrored() -> Regime:
    """So few images that all of their labels are fitted though they are augmented."""
    title, task = "CIFAR-10, 1,000 images of 16x16 pixels, mirrored at random", _CIFAR | {"crop": 0}
    whole = _regime("cifar-mirrored", 0, title, 200, 3, images=1000, passes=6, **task)
    few = (one for one in _named(CLEAN) if one.name == SAM or not one.radii)
    return whole._replace(contenders=(*few, GENTLE))


def _transformer(noise: int) -> Regime:
    """With AdamW, whose fitting radii are about a seventh of those of SGD."""
    task = {"model": "vit_tiny", "optimizer": "adamw", "learning_rate": 1e-3, "batch_size": 64}
    whole = _regime("vit", noise, "digits, 1,200 images", 300, 5, **task)
    title = whole.title.replace("ResNet-8", "a transformer of 3 blocks, width 64, AdamW")
    some = (one for one in _named(FEW) if not _by_place(one))
    return whole._replace(title=title, contenders=tuple(map(_of_adamw, some)))


def _named(names: Collection[str]) -> tuple[Contender, ...]:
    return tuple(one for one in CONTENDERS if one.name in names)


def _by_place(contender: Contender) -> bool:
    """Whether it names layers of the ResNet."""
    return isinstance(contender.options.get("selection"), tuple)


def _of_adamw(contender: Contender) -> Contender:
    radii = tuple(rounded(rho * 0.15) for rho in contender.radii)
    return contender._replace(
        label=contender.label.replace("SGD", "AdamW"),
        radii=radii if len(radii) > 1 else contender.radii,
    )


REGIMES: Mapping[str, Regime] = {
    regime.name: regime
    for regime in (
        _digits(40)._replace(more_seeds=tuple(range(5, 10))),
        *(_digits(noise) for noise in (0, 20, 60)),
        *(_cifar(noise) for noise in (40, 0)),
        _mirrored(),
        _transformer(40),
    )
}


def chosen(names: str | None) -> list[Regime]:
    """The regimes of these names, with commas between them; all of None.

    Raises:
        ValueError: When one is not known.
    """
    wanted = list(REGIMES) if names is None else names.split(",")
    for name in wanted:
        if name not in REGIMES:
            raise ValueError(f"regime={name!r} is not known; choose from {', '.join(REGIMES)}")
    return [REGIMES[name] for name in wanted]
