"""From the state after an epoch to its entry in the history."""

from functools import cache

import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.state import State
from lsam_jax.experiments.training.step import Program


def record_epoch(program: Program, history: History, state: State, seed: int) -> None:
    """Evaluates the state, and appends an epoch to the history."""
    record = {name: np.asarray(x) for name, x in state.record._asdict().items()}
    selected = record.pop("selected")
    means = {name: x.astype(np.float64).mean() for name, x in record.items()}
    names = lsam.layer_names(state.params, program.method.layers)
    chosen = dict(zip(names, selected.T, strict=True))
    total = dict(zip(names, np.asarray(state.sam.perturbations).tolist(), strict=True))
    size_of = {layer.name: layer.parameters for layer in program.inspection.layers}
    sizes = np.array([size_of[name] for name in names])
    never = np.zeros(len(selected), bool)
    validation_loss, validation_accuracy = program.evaluate(state.params, state.batch_stats)
    probe = program.probe(state.params, state.batch_stats, seed)
    survival = program.method.survival(state.params, probe.gradient, state.sam)
    history.append(
        step=int(state.step),
        train_loss=means.pop("loss"),
        train_accuracy=means.pop("accuracy"),
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        gradient_norm=probe.norm,
        layer_norms=[probe.norms[name] for name in program.layers],
        perturbations=[total.get(name, 0) for name in program.layers],
        perturbation_survival=float(survival),
        cost=_mean_cost(program, names, selected),
        perturbed_parameters=selected.mean(axis=0) @ sizes / sum(program.sizes.values()),
        perturbed_layers=np.mean([chosen.get(name, never) for name in program.layers]),
        **means,
    )


def _mean_cost(program: Program, names: tuple[str, ...], selected: np.ndarray) -> float:
    """Of the steps whose layers are the rows of `selected`, relative to a plain gradient."""

    @cache
    def cost(row: bytes) -> float:
        chosen = np.frombuffer(row, bool)
        some = [name for name, one in zip(names, chosen, strict=True) if one]
        return program.method.price(program.inspection, some)

    return float(np.mean([cost(row.tobytes()) for row in selected]))
