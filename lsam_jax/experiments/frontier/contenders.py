"""What is compared: methods with their options, and the radii that each may choose from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

BLOCKS = tuple(f"block{block}/conv{conv}/kernel" for block in range(3) for conv in (1, 2))
FIRST = ("stem/kernel", *BLOCKS[:2], "block0/shortcut/kernel")
MIDDLE = (*BLOCKS[2:4], "block1/shortcut/kernel")
LAST = (*BLOCKS[4:], "block2/shortcut/kernel", "head/kernel")
"""The kernels of `resnet.resnet8` by where they stand."""


def rounded(rho: float) -> float:
    """To two digits, as a grid is written.

    Example:
        >>> rounded(0.1049)
        0.1
    """
    return float(f"{rho:.2g}")


class Contender(NamedTuple):
    """A row of the study.

    Attributes:
        name: In the ledger; never changes.
        label: In tables and pictures.
        method: One of `methods.METHODS`.
        options: Of the method, but for the radius.
        radii: The grid, rising; empty where there is no radius to choose.
        length: Of the run, relative to the others'.
    """

    name: str
    label: str
    method: str
    options: Mapping[str, Any]
    radii: tuple[float, ...] = ()
    length: int = 1


SGD, SAM = "sgd", "sam"
"""Names of the contenders that nothing and everything is kept of."""

_RISE = {"rise_share": 0.4}
_NOT_NORMALISED = {"alpha": 0.8, "normalize": False}
_USUAL, _MORE, _WIDE = (0.2, 0.4, 0.7), (0.4, 0.7, 1.2), (0.7, 1.2, 2.0)
_WIDER, _DOUBLED = (1.2, 2.0, 3.5), (0.4, 0.8, 1.6)


def _sam(name: str, label: str, radii: tuple[float, ...] = _USUAL, **options: Any) -> Contender:
    return Contender(name, label, "sam", options, radii)


def _layers(name: str, label: str, radii: tuple[float, ...] = _MORE, **options: Any) -> Contender:
    """Layer-wise SAM as it works best: normalised, and of the perturbed gradient alone."""
    usual = {"k": 4, "alpha": 1.0, "normalize": True}
    return Contender(name, label, "layerwise_sam", usual | options, radii)


def _place(name: str, label: str, layers: tuple[str, ...]) -> Contender:
    return _layers(f"only-{name}", label, _USUAL, k=None, selection=layers)


CONTENDERS: tuple[Contender, ...] = (
    Contender(SGD, "SGD", "sgd", {}),
    _sam(SAM, "SAM"),
    _sam("sam-1/8", "SAM on 1/8", _WIDE, ascent_batch=1 / 8),
    _layers("layers-4", "layer-wise, k=4"),
    _layers("layers-4-1/8", "layer-wise, k=4, on 1/8", _WIDER, ascent_batch=1 / 8),
    Contender("stale", "stale", "stale", {}, _DOUBLED),
    Contender("stale-without-rest", "stale, without rest", "stale", {"rest": 1}, _DOUBLED),
    _sam("sam-rise", "SAM, radius by rise", (), **_RISE),
    _sam("sam-1/8-rise", "SAM on 1/8, by rise", (), ascent_batch=1 / 8, **_RISE),
    _layers("layers-4-1/8-rise", "layer-wise on 1/8, by rise", (), ascent_batch=1 / 8, **_RISE),
    Contender("stale-rise", "stale, by rise", "stale", _RISE),
    _sam("sam-1/4", "SAM on 1/4", _MORE, ascent_batch=1 / 4),
    _layers("layers-4-1/4", "layer-wise, k=4, on 1/4", _WIDE, ascent_batch=1 / 4),
    _sam("sam-1/16", "SAM on 1/16", _WIDE, ascent_batch=1 / 16),
    Contender("generalized", "generalized SAM", "generalized_sam", {"alpha": 0.8}, (0.3, 1.0, 3.0)),
    _layers("layers-4-paper", "layer-wise, the paper's", (0.1,), **_NOT_NORMALISED),
    _layers("layers-4-plain", "layer-wise, not normalised", (1.0, 3.0, 9.0), **_NOT_NORMALISED),
    _layers("layers-2", "layer-wise, k=2", k=2),
    _layers("layers-1", "layer-wise, k=1", _WIDE, k=1),
    _layers("budget-10", "budget 10 %", _WIDE, budget=0.10),
    _layers("budget-25", "budget 25 %", _WIDE, budget=0.25),
    _sam("every-2", "SAM every 2nd step", _MORE, perturb_every=2),
    _sam("every-5", "SAM every 5th step", _MORE, perturb_every=5),
    _sam("every-10", "SAM every 10th step", _MORE, perturb_every=10),
    _sam("last-fifth", "SAM in the last fifth", perturb_from=0.8),
    _sam("last-tenth", "SAM in the last tenth", perturb_from=0.9),
    Contender("look", "LookSAM", "look_sam", {"every": 3, "alpha": 0.8}, (0.1, 0.4, 1.6)),
    Contender("momentum", "Momentum-SAM", "momentum_sam", {}, _DOUBLED),
    Contender("stale-fresh", "stale, fresh from block 1", "stale", {"fresh": BLOCKS[2]}, _DOUBLED),
    Contender("esam", "ESAM", "esam", {"beta": 0.6, "gamma": 0.5}, _MORE),
    Contender("asam", "ASAM", "asam", {}, (1.0, 2.0, 4.0)),
    Contender("f_sam", "F-SAM", "f_sam", {}, _USUAL),
    Contender("sam_on", "SAM-ON", "sam_on", {}, (0.5, 1.5, 4.5)),
    _sam("m-16", "m-sharpness, m=16", m=16),
    _sam("sam-1/2", "SAM on 1/2", _MORE, ascent_batch=1 / 2),
    Contender("sgd-x2", "SGD, twice as long", "sgd", {}, length=2),
    _place("first-third", "only the first third", FIRST),
    _place("middle-third", "only the middle third", MIDDLE),
    _place("last-third", "only the last third", LAST),
    _place("all-but-the-last", "all but the last third", FIRST + MIDDLE),
    _layers("layers-4-random", "layer-wise, 4 at random", selection="random"),
    _layers("layers-4-low", "layer-wise, 4 of low norm", selection="low"),
)
"""In the order in which they are run."""
