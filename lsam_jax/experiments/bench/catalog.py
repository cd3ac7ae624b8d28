"""The methods that are timed, by name: those of the paper's Table 2 and more, and the family."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.engine.costs import Profile
from lsam_jax.experiments.bench import baselines, cost_model
from lsam_jax.experiments.bench.timed import Timed
from lsam_jax.experiments.bench.workload import Workload
from lsam_jax.experiments.config import costs, paper_results, presets
from lsam_jax.experiments.config.methods import METHODS, ConfiguredMethod, Family, complete, method

RADIUS, ALPHA = 0.1, 0.8
SGD, TEXTBOOK, OPTAX = "SGD", "textbook mask", "optax.contrib.sam"

Model = Callable[[Profile, np.ndarray], float]
"""From a network and the perturbed layers, bool[L] in its order, to a step's relative cost."""


class BenchedMethod(NamedTuple):
    """A method of a benchmark.

    Attributes:
        label: What tables call it.
        method: It, or the one whose counted price it has.
        modelled: What a step costs by the paper's cost model.
        step: From what is differentiated to the step, where it is not the library's.
    """

    label: str
    method: ConfiguredMethod
    modelled: Model | None = None
    step: Callable[[Workload], Timed] | None = None

    def timed(self, work: Workload) -> Timed:
        """Its step, whose state goes on from call to call."""
        if self.step is not None:
            return self.step(work)
        if work.training is None:
            raise ValueError(f"{self.label} cannot be timed on a loss that no run trains")
        step = self.method.value_and_grad(work.training)
        return Timed(step, (self.method.init(work.params),), carries=True)

    def costs(self, work: Workload, selected: np.ndarray) -> dict[str, float | None]:
        """Counted and modelled cost, means over steps.

        Args:
            work: What is differentiated.
            selected: bool[steps, L], the layers that they perturbed, as the state has them; all
                are perturbed by what is not one of the library's methods.
        """
        network = inspect(work, self.method.tx)
        if self.step is None:
            rows = in_network_order(network, work, self.method.tx, selected)
        else:
            rows = np.ones((len(selected), len(network.layers)), bool)
        mean, model = partial(costs.mean_over, rows), self.modelled
        return {
            "counted": mean(lambda kind: self.method.price(network, names_of(network, kind))),
            "modelled": model and mean(lambda kind: model(network.profile, kind)),
        }


def inspect(work: Workload, tx: lsam.SamTransformation) -> lsam.Inspection:
    """The network that a method sees."""
    return costs.inspect(tx, work.loss, work.params, *work.args)


def in_network_order(
    network: lsam.Inspection, work: Workload, tx: lsam.SamTransformation, selected: np.ndarray
) -> np.ndarray:
    """The perturbed layers of steps, bool[steps, L], from a state's order to the network's."""
    place = lsam.layer_names(work.params, tx.method.layers)
    return selected[:, [place.index(layer.name) for layer in network.layers]]


def names_of(network: lsam.Inspection, selected: np.ndarray) -> list[str]:
    """Of layers, bool[L] in the order of the network."""
    return [layer.name for layer, one in zip(network.layers, selected, strict=True) if one]


def table2(model: str) -> dict[str, BenchedMethod]:
    """The columns of the paper's Table 2 with its hyper-parameters, and more; SGD first.

    Args:
        model: Name of the network; one that is not in the paper takes ResNet-20's numbers.
    """
    preset = paper_preset(model) or presets.PRESETS["cifar10-resnet20"]
    k, every = preset.methods["layerwise_sam"]["k"], paper_results.INTERVAL[preset.name]
    shared: dict[str, Any] = {"rho": RADIUS, "alpha": ALPHA}
    layerwise = partial(_own, name="layerwise_sam", k=k)
    return {
        "sgd": _own(SGD, "sgd", cost_model.layerwise_sam),
        "sam": _own("SAM", "sam", _by_equation_9(1)),
        "sam-rise": _own("SAM, radius by the rise", "sam", rise=0.1),
        "generalized_sam": _own("generalized SAM", "generalized_sam", _by_equation_9(1), **shared),
        "look_sam": _own(
            f"LookSAM, every {every}", "look_sam", _by_equation_9(every), every=every, **shared
        ),
        "layerwise_sam": layerwise(
            f"layer-wise SAM, k={k}", modelled=cost_model.layerwise_sam, **shared
        ),
        "sam-1/8": _own("SAM, 1/8 of the batch", "sam", ascent_batch=1 / 8),
        "sam-1/4": _own("SAM, 1/4 of the batch", "sam", ascent_batch=1 / 4),
        "layerwise_sam-1/8": layerwise(
            f"layer-wise SAM, k={k}, 1/8", alpha=1.0, normalize=True, ascent_batch=1 / 8
        ),
        "stale": _own("SAM, stale", "stale"),
        "stale-without-rest": _own("SAM, stale, without rest", "stale", rest=1),
        "esam": _own("ESAM", "esam"),
        "sl_sam": _own("SL-SAM", "sl_sam"),
        "plain": _unnamed(
            "plain gradient, by the engine", lsam.layerwise_sam(None, 0.0, selection="none")
        ),
        "optax": BenchedMethod(OPTAX, method("sam", {}), step=_optax),
        "textbook": BenchedMethod(TEXTBOOK, method("sam", {}), step=textbook),
    }


def family() -> dict[str, BenchedMethod]:
    """Every method of the library with its defaults, and combinations; SGD first."""
    combined: dict[str, tuple[str, dict[str, Any]]] = {
        "layerwise_sam k=4": ("layerwise_sam", {}),
        "layerwise_sam budget=0.1": ("layerwise_sam", {"budget": 0.1}),
        "look_sam": ("look_sam", {"every": 5}),
        "look_sam k=4 high": (
            "look_sam", {"every": 5, "k": 4, "selection": "high", "layers": "kernel"}
        ),
        "sl_sam budget=0.1": ("sl_sam", {"budget": 0.1}),
        "sam stale": ("stale", {}),
    }  # fmt: skip
    first = {"sgd": _own(SGD, "sgd", cost_model.layerwise_sam)}
    others = (name for name in METHODS if name not in ("sgd", "layerwise_sam", "stale"))
    found = first | {name: _own(name, name) for name in others}
    found |= {label: _own(label, name, **options) for label, (name, options) in combined.items()}
    stale = lsam.with_parts(lsam.layerwise_sam(4, RADIUS, normalize=True), ascent=lsam.stale())
    name = "layerwise_sam k=4 stale"
    return {**found, name: _unnamed(name, stale)}


CATALOGS: Mapping[str, Callable[[str], dict[str, BenchedMethod]]] = {
    "table2": table2,
    "family": lambda model: family(),
}
"""From a model to its methods."""


def paper_preset(model: str) -> presets.Preset | None:
    """That of the paper with this network, if there is one."""
    there = (one for one in presets.PRESETS.values() if one.config.model == model and one.published)
    return next(there, None)


def published(model: str, name: str) -> dict[str, float] | None:
    """Images a second in the paper, and the cost relative to SGD; None where it has no number.

    Example:
        >>> round(published("resnet20", "generalized_sam")["ratio"], 2)
        1.43
    """
    preset = paper_preset(model)
    row = {} if preset is None else paper_results.TABLE1[preset.name]
    own, plain = (row.get(n, {}).get("throughput") for n in (name, "sgd"))
    if own is None or plain is None:
        return None
    return {"images_per_second": own, "ratio": plain / own}


def _by_equation_9(every: int) -> Model:
    return lambda profile, selected: cost_model.look_sam(profile, every)


def _own(label: str, name: str, modelled: Model | None = None, **options: Any) -> BenchedMethod:
    """One of `METHODS`, with its options."""
    return BenchedMethod(label, method(name, complete(name, options)), modelled)


def _unnamed(label: str, tx: lsam.SamTransformation) -> BenchedMethod:
    """A method of one gradient that runs do not know."""
    one = Family(label, lambda: tx, {}, price=lambda *given: 1.0)
    return BenchedMethod(label, one.configured({}))


def _optax(work: Workload) -> Timed:
    return Timed(baselines.optax_sam(work.loss, RADIUS))


def textbook(work: Workload) -> Timed:
    """With everything perturbed; the price is that of any mask."""
    mask = jax.tree.map(lambda _: jnp.ones((), bool), work.params)
    return Timed(baselines.textbook(work.loss, RADIUS), (mask,))
