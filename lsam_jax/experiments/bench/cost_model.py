"""The paper's cost model, relative to a plain gradient.

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
pass, of the whole network (this library: of the part behind the cut). `lsam_jax.Inspection.cost`
counts it, and so is SAM's price of 2 where the model says about 5/3.
"""

import numpy as np

from lsam_jax.engine.costs import Profile


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
