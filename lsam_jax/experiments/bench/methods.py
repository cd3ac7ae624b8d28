"""What a step of every method costs, on one network after the other: the paper's Table 2.

The weights stand still. A method that chooses layers, or draws them, goes on choosing: its state
is handed from step to step, and its mean cost is that of the layers that it chose here, of an
untrained network. results/bench/recorded.py has those of a real run.
"""

import dataclasses
from typing import Any

from lsam_jax.experiments.bench import timed, workload
from lsam_jax.experiments.bench.catalog import CATALOGS, BenchedMethod, published
from lsam_jax.experiments.models import registry


@dataclasses.dataclass(frozen=True)
class Settings(workload.Size):
    """What to measure, on what; see `workload.Size`.

    Args:
        models: Names of networks, see `registry.ARCHITECTURES`.
        methods: Of `catalog`, by name; empty for all. SGD is always there.
        catalog: One of `catalog.CATALOGS`.
        rounds: Steps of each method; a multiple of LookSAM's interval shows its mean.

    Raises:
        ValueError: When a value makes no sense.
    """

    models: tuple[str, ...] = ("resnet20", "resnet8")
    methods: tuple[str, ...] = ()
    catalog: str = "table2"
    rounds: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models={','.join(self.models)} must name one or more, each once")
        for model in self.models:
            registry.preset(model)
            self.chosen(model)

    def chosen(self, model: str) -> dict[str, BenchedMethod]:
        """The methods by name, SGD first."""
        known = CATALOGS[self.catalog](model)
        for name in self.methods:
            if name not in known:
                raise ValueError(f"method={name!r} is not known; choose from {', '.join(known)}")
        wanted = {"sgd", *self.methods} if self.methods else set(known)
        return {name: method for name, method in known.items() if name in wanted}


def bench(settings: Settings) -> dict[str, Any]:
    """Measured, counted, modelled and published cost of every method.

    Returns:
        For each model a row of steps by label, and ``programs`` (compile time, memory, FLOPs).
    """
    rows: dict[str, Any] = {}
    programs: dict[str, Any] = {}
    for model in settings.models:
        work = workload.whole_network(model, settings)
        methods = settings.chosen(model)
        calls = timed.prepare({n: m.timed(work) for n, m in methods.items()}, work)
        steps = {}
        for name, measured in timed.measure(calls, settings.rounds).items():
            steps[methods[name].label] = {
                **measured._asdict(),
                "images_per_second": work.batch_size / measured.seconds,
                **methods[name].costs(work, calls[name].selected(settings.rounds)),
                "published": published(model, name),
            }
        rows[model] = {"steps": steps}
        labelled = {f"{model}: {methods[n].label}": call.program for n, call in calls.items()}
        programs |= timed.described(labelled, calls["sgd"].program)
    return {"rows": rows, "programs": programs}
