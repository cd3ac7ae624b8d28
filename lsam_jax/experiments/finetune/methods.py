"""How a language model is fine-tuned: the methods as a table, and what their steps cost.

They differ in nothing but these two transformations. Hyper-parameters are those that the papers
name: SAM's radius 0.05 (also for layer-wise SAM, normalised likewise), SL-SAM's radius 0.01 and
share 0.2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import lsam_jax as lsam
from lsam_jax.experiments.config import costs

KERNELS = lsam.stacked("blocks")
"""Each matrix of each block is a layer."""

ARRAYS = lsam.stacked("blocks", layers="array")
"""Each array of each block is a layer."""

K, BUDGET = 4, 0.5


class FinetuneMethod(NamedTuple):
    """A way to fine-tune.

    Attributes:
        label: What tables call it.
        transformation: Gives the direction of descent.
        optimizer: Makes a step of it.
        partial: Whether the layers that a step selects are all that it trains.
    """

    label: str
    transformation: lsam.SamTransformation
    optimizer: optax.GradientTransformation
    partial: bool = False


def methods(learning_rate: float) -> dict[str, FinetuneMethod]:
    """The methods by name, AdamW first, to which costs are relative."""
    adamw = optax.adamw(learning_rate, weight_decay=0.01)
    plain = lsam.layerwise_sam(None, 0.0, selection="none", layers=KERNELS)
    layerwise = lsam.layerwise_sam(K, 0.05, normalize=True, layers=KERNELS)
    within = lsam.layerwise_sam(
        K, 0.05, normalize=True, layers=KERNELS, selection=lsam.budget(BUDGET)
    )
    sl_sam = lsam.sl_sam(0.01, 0.2, layers=ARRAYS)
    return {
        "adamw": FinetuneMethod("AdamW", plain, adamw),
        "sam": FinetuneMethod("SAM", lsam.sam(0.05), adamw),
        "layerwise_sam": FinetuneMethod(f"layer-wise SAM, k={K}", layerwise, adamw),
        "layerwise_sam-budget": FinetuneMethod(f"layer-wise, budget {BUDGET:g}", within, adamw),
        "sl_sam": FinetuneMethod(
            "SL-SAM", sl_sam, lsam.freeze_inactive(adamw, ARRAYS), partial=True
        ),
    }


class Prices:
    """What steps of a method cost and how much of the model they perturb.

    Args:
        method: The method.
        loss_fn: ``(params, windows)`` to the loss.
        params: Of the model; shapes are enough.
        windows: A batch; likewise.
    """

    def __init__(
        self, method: FinetuneMethod, loss_fn: Callable[..., Any], params: Any, windows: Any
    ):
        parts = method.transformation.method
        self._partial = method.partial
        self._names = lsam.layer_names(params, parts.layers)
        k = parts.k if isinstance(parts.k, int) else 1

        self.inspection = lsam.inspect(
            loss_fn,
            params,
            windows,
            layers=parts.layers,
            cuts=parts.cuts,
            k=k,
            selection=parts.selector,
        )
        self._sizes = {layer.name: layer.parameters for layer in self.inspection.layers}
        self._total = sum(np.size(x) for x in jax.tree.leaves(params))

    def perturbed(self, selected: Any) -> float:
        """The share of all parameters that are in the selected layers.

        Args:
            selected: bool[L], as in the method's state.
        """
        return sum(self._sizes[name] for name in self._chosen(selected)) / self._total

    def cost(self, selected: Any) -> float:
        """Counted floating-point operations of a step relative to those of a gradient.

        Args:
            selected: bool[L], as in the method's state.
        """
        chosen = self._chosen(selected)
        if self._partial:
            return costs.drawn_alone(self.inspection, chosen)
        return self.inspection.cost(chosen)

    def _chosen(self, selected: Any) -> list[str]:
        return [name for name, one in zip(self._names, selected, strict=True) if one]
