"""Small networks whose loss is awkward to cut: what the engine must be exact on.

Each function makes one `Case`. `order` is the network order of its kernels, written by hand;
the names are such that the order of the tree's leaves is another.
"""

import functools

from zoo.common import STEPS, Case
from zoo.dense import branches, entangled, shared, unused
from zoo.images import convolutions, resnet
from zoo.loops import recurrent, stacked
from zoo.text import transformer
from zoo.wrapped import decay_first, jitted, remat, remat_blocks

__all__ = ["MODELS", "STEPS", "Case", "build"]

MODELS = {
    model.__name__: model
    for model in (
        branches,
        shared,
        unused,
        entangled,
        jitted,
        remat,
        remat_blocks,
        decay_first,
        recurrent,
        stacked,
        convolutions,
        resnet,
        transformer,
    )
}


@functools.cache
def build(name):
    """The case of a name; to be called in double precision."""
    return MODELS[name]()
