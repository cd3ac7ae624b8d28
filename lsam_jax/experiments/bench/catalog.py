"""The methods that are timed, by name: those of the paper's Table 2 and more, and the family."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments.bench import baselines, cost_model
from lsam_jax.experiments.bench.timed import Timed
from lsam_jax.experiments.bench.workload import Workload
from lsam_jax.experiments.config import costs, paper_results
from lsam_jax.experiments.config.methods import METHODS
from lsam_jax.experiments.config.shared_options import BATCH

RADIUS, ALPHA = 0.1, 0.8
SGD, TEXTBOOK, OPTAX = "SGD", "textbook mask", "optax.contrib.sam"

Count = Callable[[lsam.Inspection, np.ndarray], float]
"""From a network and the perturbed layers, bool[L] in its order, to a step's relative cost."""


class BenchedMethod(NamedTuple):
    """A method of a benchmark.

    Attributes:
        label: What tables call it.
        timed: From what is differentiated to its step.
        tx: The method, where it is one of the library's.
        counted: What a step costs; None where nothing counts it.
        modelled: The same by the paper's cost model.
    """

    label: str
    timed: Callable[[Workload], Timed]
    tx: lsam.SamTransformation | None = None
    counted: Count | None = cost_model.both_passes
    modelled: Count | None = None

    def costs(self, work: Workload, selected: np.ndarray) -> dict[str, float | None]:
        """Means over steps of `counted` and of `modelled`.

        Args:
            work: What is differentiated.
            selected: bool[steps, L], the layers that they perturbed, as the state has them; all
                are perturbed by what is not one of the library's methods.
        """
        network = inspect(work, self.tx)
        if self.tx is None:
            rows = np.ones((len(selected), len(network.layers)), bool)
        else:
            rows = in_network_order(network, work, self.tx, selected)
        kinds, steps = np.unique(rows, axis=0, return_counts=True)
        found: dict[str, float | None] = {}
        for name, count in (("counted", self.counted), ("modelled", self.modelled)):
            costs = [] if count is None else [count(network, kind) for kind in kinds]
            found[name] = float(np.average(costs, weights=steps)) if costs else None
        return found


def inspect(work: Workload, tx: lsam.SamTransformation | None) -> lsam.Inspection:
    """The network that a method sees; without one, every array is a layer."""
    return costs.inspect(lsam.sam() if tx is None else tx, work.loss, work.params, *work.args)


def in_network_order(
    network: lsam.Inspection, work: Workload, tx: lsam.SamTransformation, selected: np.ndarray
) -> np.ndarray:
    """The perturbed layers of steps, bool[steps, L], from a state's order to the network's."""
    place = lsam.layer_names(work.params, tx.method.layers)
    return selected[:, [place.index(layer.name) for layer in network.layers]]


def table2(model: str) -> dict[str, BenchedMethod]:
    """The columns of the paper's Table 2 with its hyper-parameters, and more; SGD first.

    Args:
        model: Name of the network; one that is not in the paper takes ResNet-20's numbers.
    """
    k = paper_results.LAYERS.get(model, paper_results.LAYERS["resnet20"])
    every = paper_results.INTERVAL.get(model, paper_results.INTERVAL["resnet20"])
    look = lsam.look_sam(RADIUS, every, ALPHA)
    return {
        "sgd": _sgd(),
        "sam": _own("SAM", lsam.sam(), modelled=_by_equation_9(1)),
        "sam-rise": _own("SAM, radius by the rise", lsam.sam(lsam.rise(0.1))),
        "generalized_sam": _own(
            "generalized SAM", lsam.generalized_sam(RADIUS, ALPHA), modelled=_by_equation_9(1)
        ),
        "look_sam": _own(f"LookSAM, every {every}", look, modelled=_by_equation_9(every)),
        "layerwise_sam": _own(
            f"layer-wise SAM, k={k}", lsam.layerwise_sam(k, RADIUS, ALPHA), modelled=by_equation_8
        ),
        "sam-1/8": _part("SAM, 1/8 of the batch", lsam.sam(), 1 / 8),
        "sam-1/4": _part("SAM, 1/4 of the batch", lsam.sam(), 1 / 4),
        "layerwise_sam-1/8": _part(
            f"layer-wise SAM, k={k}, 1/8", lsam.layerwise_sam(k, RADIUS, normalize=True), 1 / 8
        ),
        "stale": _own("SAM, stale", lsam.with_parts(lsam.sam(), ascent=lsam.stale()), counted=_one),
        "esam": _esam("ESAM"),
        "sl_sam": _own("SL-SAM", lsam.sl_sam(), counted=cost_model.drawn_alone),
        "optax": BenchedMethod(OPTAX, lambda work: Timed(baselines.optax_sam(work.loss, RADIUS))),
        "textbook": BenchedMethod(TEXTBOOK, textbook),
    }


def family() -> dict[str, BenchedMethod]:
    """Every method of the library with its defaults; SGD first."""
    k4: dict[str, Any] = {"k": 4, "rho": RADIUS, "alpha": ALPHA}
    whole: dict[str, lsam.SamTransformation] = {
        "sam": lsam.sam(),
        "generalized_sam": lsam.generalized_sam(),
        "layerwise_sam k=4": lsam.layerwise_sam(**k4),
        "layerwise_sam budget=0.1": lsam.layerwise_sam(**k4, selection=lsam.budget(0.1)),
        "look_sam": lsam.look_sam(),
        "look_sam k=4 high": lsam.look_sam(k=4, selection="high", layers="kernel"),
        "sparse_sam": lsam.sparse_sam(),
        "asam": lsam.asam(),
        "gsam": lsam.gsam(),
        "ae_sam": lsam.ae_sam(),
        "stable_sam": lsam.stable_sam(),
    }
    elsewhere = ["sgd", "layerwise_sam", "esam", "sl_sam", "gam", "adazo_sam", "sam_on"]
    elsewhere += ["functional_sam", "momentum_sam", "stale"]
    whole |= {n: row.make() for n, row in METHODS.items() if n not in (*whole, *elsewhere)}
    stale = {
        "sam stale": lsam.with_parts(lsam.sam(), ascent=lsam.stale()),
        "layerwise_sam k=4 stale": lsam.with_parts(
            lsam.layerwise_sam(4, RADIUS, normalize=True), ascent=lsam.stale()
        ),
    }
    drawn = {"sl_sam": lsam.sl_sam(), "sl_sam budget=0.1": lsam.sl_sam(budget=0.1)}
    uncounted = {"gam": lsam.gam(), "adazo_sam": lsam.adazo_sam(), "sam_on": lsam.sam_on()}
    parts = _own("functional_sam", lsam.functional_sam(), family="functional_sam")
    return {
        "sgd": _sgd(),
        **{name: _own(name, tx) for name, tx in whole.items()},
        **{name: _own(name, tx, counted=cost_model.drawn_alone) for name, tx in drawn.items()},
        **{name: _own(name, tx, counted=None) for name, tx in uncounted.items()},
        "esam": _esam("esam"),
        "functional_sam": parts,
        "momentum_sam": _own("momentum_sam", lsam.momentum_sam(), counted=_one),
        **{name: _own(name, tx, counted=_one) for name, tx in stale.items()},
    }


CATALOGS: Mapping[str, Callable[[str], dict[str, BenchedMethod]]] = {
    "table2": table2,
    "family": lambda model: family(),
}
"""From a model to its methods."""


def by_equation_8(network: lsam.Inspection, selected: np.ndarray) -> float:
    """The paper's model of layer-wise SAM."""
    return cost_model.layerwise_sam(network.profile, selected)


def _by_equation_9(every: int) -> Count:
    return lambda network, selected: cost_model.look_sam(network.profile, every)


def _one(network: lsam.Inspection, selected: np.ndarray) -> float:
    return 1.0


def _own(
    label: str,
    tx: lsam.SamTransformation,
    family: str = "sam",
    part: float | None = None,
    **counts: Any,
) -> BenchedMethod:
    """A method of the library, with its state going on from step to step.

    Args:
        label: What tables call it.
        tx: The method.
        family: One of `methods.METHODS`, whose loss it takes.
        part: The share of the batch that it climbs; None for all of it.
        **counts: `counted`, `modelled`.
    """

    def timed(work: Workload) -> Timed:
        if work.training is None:
            raise ValueError(f"{label} cannot be timed on a loss that no run trains")
        step = lsam.value_and_grad(
            METHODS[family].loss(work.training),
            tx,
            has_aux=True,
            ascent_batch=part,
            batch_argnums=BATCH,
        )
        return Timed(step, (tx.init(work.params),), carries=True)

    return BenchedMethod(label, timed, tx, **counts)


def _part(label: str, tx: lsam.SamTransformation, share: float) -> BenchedMethod:
    # Without a conditional: all that may be perturbed is climbed.
    return _own(label, tx, part=share, counted=lambda network, selected: 1 + share)


def _sgd() -> BenchedMethod:
    return BenchedMethod(
        SGD, lambda work: Timed(baselines.sgd(work.loss)), counted=_one, modelled=_one
    )


def _esam(label: str) -> BenchedMethod:
    return _own(label, lsam.esam(), family="esam", counted=cost_model.half_the_samples)


def textbook(work: Workload) -> Timed:
    """With everything perturbed; the price is that of any mask."""
    mask = jax.tree.map(lambda _: jnp.ones((), bool), work.params)
    return Timed(baselines.textbook(work.loss, RADIUS), (mask,))
