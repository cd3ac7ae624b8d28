"""What is compared: methods with their options, and the radii that each may choose from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

BLOCKS = tuple(f"block{block}/conv{conv}/kernel" for block in range(3) for conv in (1, 2))
PLACES = {
    "first third": ("stem/kernel", *BLOCKS[:2], "block0/shortcut/kernel"),
    "middle third": (*BLOCKS[2:4], "block1/shortcut/kernel"),
    "last third": (*BLOCKS[4:], "block2/shortcut/kernel", "head/kernel"),
}
"""The kernels of `resnet.resnet8` by where they stand."""


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

_LAYERS = {"alpha": 1.0, "normalize": True}
_RISE = {"rise_share": 0.4}


def _part(share: float) -> dict[str, float]:
    return {"ascent_batch": share}


def _place(name: str, layers: tuple[str, ...]) -> Contender:
    options = {"k": None, "selection": layers, **_LAYERS}
    return Contender(
        f"only-{name.replace(' ', '-')}", f"only the {name}", "layerwise_sam", options, _USUAL
    )


_USUAL, _WIDE, _WIDER = (0.2, 0.4, 0.7), (0.7, 1.2, 2.0), (1.2, 2.0, 3.5)

CONTENDERS: tuple[Contender, ...] = (
    Contender(SGD, "SGD", "sgd", {}),
    Contender(SAM, "SAM", "sam", {}, _USUAL),
    Contender("sam-1/8", "SAM on 1/8", "sam", _part(1 / 8), _WIDE),
    Contender("layers-4", "layer-wise, k=4", "layerwise_sam", {"k": 4, **_LAYERS}, (0.4, 0.7, 1.2)),
    Contender(
        "layers-4-1/8",
        "layer-wise, k=4, on 1/8",
        "layerwise_sam",
        {"k": 4, **_LAYERS, **_part(1 / 8)},
        _WIDER,
    ),
    Contender("stale", "stale", "stale", {}, (0.4, 0.8, 1.6)),
    Contender("sam-rise", "SAM, radius by rise", "sam", _RISE),
    Contender("sam-1/8-rise", "SAM on 1/8, by rise", "sam", {**_part(1 / 8), **_RISE}),
    Contender(
        "layers-4-1/8-rise",
        "layer-wise on 1/8, by rise",
        "layerwise_sam",
        {"k": 4, **_LAYERS, **_part(1 / 8), **_RISE},
    ),
    Contender("stale-rise", "stale, by rise", "stale", _RISE),
    Contender("sam-1/4", "SAM on 1/4", "sam", _part(1 / 4), (0.4, 0.7, 1.2)),
    Contender(
        "layers-4-1/4",
        "layer-wise, k=4, on 1/4",
        "layerwise_sam",
        {"k": 4, **_LAYERS, **_part(1 / 4)},
        _WIDE,
    ),
    Contender("sam-1/16", "SAM on 1/16", "sam", _part(1 / 16), _WIDE),
    Contender("generalized", "generalized SAM", "generalized_sam", {"alpha": 0.8}, (0.3, 1.0, 3.0)),
    Contender(
        "layers-4-paper",
        "layer-wise, the paper's",
        "layerwise_sam",
        {"k": 4, "alpha": 0.8, "normalize": False},
        (0.1,),
    ),
    Contender(
        "layers-4-plain",
        "layer-wise, not normalised",
        "layerwise_sam",
        {"k": 4, "alpha": 0.8, "normalize": False},
        (1.0, 3.0, 9.0),
    ),
    Contender("layers-2", "layer-wise, k=2", "layerwise_sam", {"k": 2, **_LAYERS}, (0.4, 0.7, 1.2)),
    Contender("layers-1", "layer-wise, k=1", "layerwise_sam", {"k": 1, **_LAYERS}, _WIDE),
    Contender(
        "budget-10", "budget 10 %", "layerwise_sam", {"k": 4, "budget": 0.10, **_LAYERS}, _WIDE
    ),
    Contender(
        "budget-25", "budget 25 %", "layerwise_sam", {"k": 4, "budget": 0.25, **_LAYERS}, _WIDE
    ),
    Contender("every-2", "SAM every 2nd step", "sam", {"perturb_every": 2}, (0.4, 0.7, 1.2)),
    Contender("every-5", "SAM every 5th step", "sam", {"perturb_every": 5}, (0.4, 0.7, 1.2)),
    Contender("every-10", "SAM every 10th step", "sam", {"perturb_every": 10}, (0.4, 0.7, 1.2)),
    Contender("last-fifth", "SAM in the last fifth", "sam", {"perturb_from": 0.8}, _USUAL),
    Contender("last-tenth", "SAM in the last tenth", "sam", {"perturb_from": 0.9}, _USUAL),
    Contender("look", "LookSAM", "look_sam", {"every": 3, "alpha": 0.8}, (0.1, 0.4, 1.6)),
    Contender("momentum", "Momentum-SAM", "momentum_sam", {}, (0.4, 0.8, 1.6)),
    Contender(
        "stale-fresh",
        "stale, fresh from block 1",
        "stale",
        {"fresh": BLOCKS[2]},
        (0.4, 0.8, 1.6),
    ),
    Contender("esam", "ESAM", "esam", {"beta": 0.6, "gamma": 0.5}, (0.4, 0.7, 1.2)),
    Contender("asam", "ASAM", "asam", {}, (1.0, 2.0, 4.0)),
    Contender("f_sam", "F-SAM", "f_sam", {}, _USUAL),
    Contender("sam_on", "SAM-ON", "sam_on", {}, (0.5, 1.5, 4.5)),
    Contender("m-16", "m-sharpness, m=16", "sam", {"m": 16}, _USUAL),
    Contender("sam-1/2", "SAM on 1/2", "sam", _part(1 / 2), (0.4, 0.7, 1.2)),
    Contender("sgd-x2", "SGD, twice as long", "sgd", {}, length=2),
    *(_place(name, layers) for name, layers in PLACES.items()),
    _place("all but the last", PLACES["first third"] + PLACES["middle third"]),
    Contender(
        "layers-4-random",
        "layer-wise, 4 at random",
        "layerwise_sam",
        {"k": 4, "selection": "random", **_LAYERS},
        (0.4, 0.7, 1.2),
    ),
    Contender(
        "layers-4-low",
        "layer-wise, 4 of low norm",
        "layerwise_sam",
        {"k": 4, "selection": "low", **_LAYERS},
        (0.4, 0.7, 1.2),
    ),
)
"""In the order in which they are run."""
