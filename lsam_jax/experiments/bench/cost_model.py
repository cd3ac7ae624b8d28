"""The paper's cost model beside this library's count, relative to a plain gradient.

Lee (KDD 2024, section 4.3) writes the cost of perturbing a model as

    layer-wise SAM (eq. 8):  B_min(w') + sum over i in w' of |dL(w_i)| + C
    LookSAM (eq. 9):         (B_1 + sum over all i of |dL(w_i)|) / k + C

B_i is the cost of propagating errors from the output to layer i, |dL(w_i)| the size of a gradient
that is computed, and C a constant of every backward pass. They are read here as follows.

1. The unit is floating-point operations: |dL(w_i)| is what the weight gradient of layer i costs,
   the paper's number of elements times what each of them takes.
2. C is 0: its value is not given.
3. In a chain of layers, errors that reach the first of w' have passed all of w'. Where branches lie
   side by side (a shortcut), they may pass another one by; here B is what all of w' needs.
4. The descent gradient of every step is added, the 1 that everything is relative to.

Both equations count backward passes alone. But the perturbed weights also ask for a second forward
pass, of the whole network (this library: of the part behind the cut). `both_passes` counts it, and
so is SAM's price of 2 where the model says about 5/3.
"""

import numpy as np

from lsam_jax.engine.costs import Profile
from lsam_jax.experiments.config import costs
from lsam_jax.inspection import Inspection


def layerwise_sam(profile: Profile, selected: np.ndarray) -> float:
    """A step by eq. 8; 1 is the price of SGD.

    Args:
        profile: Of the network, see `lsam_jax.inspect`.
        selected: bool[L], w', in the order of the network.
    """
    # B and the sum in one: what of the backward pass serves the gradient of any of w'.
    return 1 + float(profile.spent[(profile.serving & selected).any(axis=1)].sum())


def look_sam(profile: Profile, every: int) -> float:
    """The mean step by eq. 9; with `every` = 1 that of SAM.

    Args:
        profile: Of the network.
        every: The paper's k here: steps from one perturbation to the next.
    """
    everything = np.ones(profile.serving.shape[1], bool)
    return 1 + (layerwise_sam(profile, everything) - 1) / every


def both_passes(network: Inspection, selected: np.ndarray) -> float:
    """This library's count of a step that descends on one full gradient.

    Args:
        network: What `lsam_jax.inspect` found.
        selected: bool[L], the perturbed layers in the order of the network.
    """
    return network.cost(_names(network, selected))


def half_the_samples(network: Inspection, selected: np.ndarray) -> float:
    """ESAM's: one pass to `selected`, one forward from there, and a gradient of half the batch."""
    return costs.some_samples(network, _names(network, selected), 0.5)


def drawn_alone(network: Inspection, selected: np.ndarray) -> float:
    """SL-SAM's: forward, and then twice the pass to `selected`, which alone descends."""
    return costs.drawn_alone(network, _names(network, selected))


def _names(network: Inspection, selected: np.ndarray) -> list[str]:
    return [layer.name for layer, one in zip(network.layers, selected, strict=True) if one]
