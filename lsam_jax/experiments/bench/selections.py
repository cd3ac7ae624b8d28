"""Cost of one gradient step for given perturbed layers, beside other ways to write it.

The perturbed layers are forced through the stored norms, so one compiled layer-wise program serves
every set of as many layers.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

import lsam_jax as lsam
from lsam_jax.experiments.bench import baselines, catalog, cost_model, timed, timing, workload
from lsam_jax.experiments.bench.catalog import OPTAX, RADIUS, SGD, TEXTBOOK
from lsam_jax.experiments.bench.timed import Call, CompiledStep, Timed
from lsam_jax.experiments.models import registry

LAYERWISE, STATIC = "layer-wise SAM", "static cut"
COMPILE_ROUNDS = 3
FROZEN = "frozen backbone, 2 dense layers"


@dataclasses.dataclass(frozen=True)
class Settings(workload.Size):
    """What to measure, on what; see `workload.Size`.

    Args:
        model: Name of a residual network, see `registry.ARCHITECTURES`.
        rounds: Interleaved steps of each, for each set.
        gate: Whether weight gradients of unselected layers are skipped at run time; None: by
            platform.

    Raises:
        ValueError: When a value makes no sense.
    """

    model: str = "resnet20"
    rounds: int = 7
    gate: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        usual_sets(self.model)


def usual_sets(model: str) -> dict[str, tuple[str, ...]]:
    """The perturbed sets of the benchmark, by what to call them, as paths of kernels.

    With ResNet-20 they are: the last convolution and the head; three middle convolutions of
    stage 3 and the head, the usual choice in a run on CIFAR-10 with k = 4 after a few hundred
    steps; the stem, two convolutions of stage 3 and the head, which happens early.

    Raises:
        ValueError: When the model is not a residual network.
    """
    stages = getattr(registry.preset(model)(), "stages", None)
    if stages is None:
        raise ValueError(f"model={model!r} has no stages of blocks; choose a residual network")
    blocks = range(sum(stages[:-1]), sum(stages))
    convolutions = [f"block{b}/conv{c}/kernel" for b in blocks for c in (1, 2)]
    middle = convolutions[1:4]
    last, head, stem = convolutions[-1], "head/kernel", "stem/kernel"
    stage = len(stages)
    return {
        "last convolution, head": (last, head),
        f"{len(middle)} conv. of stage {stage}, head": (*middle, head),
        f"stem, {len(middle[:2])} conv. of stage {stage}, head": (stem, *middle[:2], head),
    }


def bench(settings: Settings) -> dict[str, Any]:
    """Measures everything.

    Returns:
        For each set a row of steps, and ``programs`` (compile time, memory, FLOPs).
    """
    rows, programs = _network(settings, workload.whole_network(settings.model, settings))
    head = workload.frozen_backbone(settings.model, settings)
    tx = lsam.layerwise_sam(k=None, rho=RADIUS, selection="all", gate=settings.gate)

    def closed_over(params: Any, state: Any, *args: Any) -> Any:
        """With a loss of the head alone, which closes over backbone and batch."""
        return lsam.value_and_grad(lambda p: head.loss(p, *args), tx, has_aux=True)(params, state)

    layerwise = Timed(closed_over, (tx.init(head.params),))
    calls = timed.prepare(_Ways(head).steps(layerwise, lsam.layer_names(head.params)), head)
    found = {f"{name}: {FROZEN}": call.program for name, call in calls.items()}
    return {
        "rows": {**rows, FROZEN: _row(calls, settings.rounds, head, tx)},
        "programs": programs | timed.described(found, calls[SGD].program, calls[TEXTBOOK].program),
    }


class _Ways:
    """Ways to write a gradient step; those that do not depend on the layers are made once."""

    def __init__(self, work: workload.Workload):
        self._work = work
        self.plain = jax.value_and_grad(work.loss, has_aux=True)
        self.masked = baselines.textbook(work.loss, RADIUS)
        self.whole = baselines.optax_sam(work.loss, RADIUS)

    def steps(self, layerwise: Timed, selected: tuple[str, ...]) -> dict[str, Timed]:
        """By name, for the layers that are perturbed."""
        return {
            SGD: Timed(self.plain),
            LAYERWISE: layerwise,
            STATIC: Timed(baselines.static_cut(self._work.loss, RADIUS, selected)),
            TEXTBOOK: Timed(self.masked, (_mask(self._work.params, selected),)),
            OPTAX: Timed(self.whole),
        }


def _network(settings: Settings, work: workload.Workload) -> tuple[dict[str, Any], dict[str, Any]]:
    """All sets, with the programs that do not depend on the set compiled once."""
    sets, ways = usual_sets(settings.model), _Ways(work)
    methods = {
        k: lsam.layerwise_sam(k=k, rho=RADIUS, gate=settings.gate) for k in map(len, sets.values())
    }
    layerwise = {k: lsam.value_and_grad(work.loss, tx, has_aux=True) for k, tx in methods.items()}
    labels = {ways.plain: SGD, ways.masked: TEXTBOOK, ways.whole: OPTAX}
    labels |= {step: f"{LAYERWISE}, k={k}" for k, step in layerwise.items()}
    compiled: dict[Any, CompiledStep] = {}
    rows = {}
    for title, selected in sets.items():
        k = len(selected)
        own = Timed(layerwise[k], (baselines.forced(methods[k], work.params, selected),))
        steps = ways.steps(own, selected)
        labels[steps[STATIC].step] = f"{STATIC}: {title}"
        calls = timed.prepare(steps, work, compiled)
        rows[title] = _row(calls, settings.rounds, work, methods[k])
    # What is compared is compiled more than once, in turn, as everything else that is timed.
    first = {ways.masked: _mask(work.params, ())}
    first |= {layerwise[k]: baselines.forced(tx, work.params, ()) for k, tx in methods.items()}
    again = {
        labels[step]: partial(timed.compile_step, step, work.params, x, *work.args)
        for step, x in first.items()
    }
    programs = {labels[step]: program for step, program in compiled.items()}
    seconds = timing.interleaved(again.values(), COMPILE_ROUNDS, warmup=0)
    for label, median in zip(again, np.median(seconds, axis=0), strict=True):
        programs[label] = programs[label]._replace(compile_seconds=float(median))
    return rows, timed.described(programs, programs[SGD], programs[TEXTBOOK])


def _mask(params: Any, selected: tuple[str, ...]) -> Any:
    paths = flatten_dict(params, sep="/")
    return unflatten_dict({path: jnp.asarray(path in selected) for path in paths}, sep="/")


def _row(
    calls: Mapping[str, Call], rounds: int, work: workload.Workload, tx: lsam.SamTransformation
) -> dict[str, Any]:
    """Costs of one set; and how far layer-wise SAM is from the textbook, which must be nothing."""
    found = {n: m._asdict() for n, m in timed.measure(calls, rounds).items()}
    network = catalog.inspect(work, tx)
    (chosen,) = catalog.in_network_order(network, work, tx, calls[LAYERWISE].selected(1))
    found[LAYERWISE] |= {
        "counted": network.cost(catalog.names_of(network, chosen)),
        "modelled": cost_model.layerwise_sam(network.profile, chosen),
    }
    ours, textbooks = calls[LAYERWISE]()[1], calls[TEXTBOOK]()[1]
    error = optax.tree.norm(optax.tree.sub(ours, textbooks)) / optax.tree.norm(textbooks)
    return {"steps": found, "difference_from_textbook": float(error)}
