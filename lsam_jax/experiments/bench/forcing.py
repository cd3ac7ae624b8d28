"""Layers forced on layer-wise SAM through the norms that its state stores."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp

import lsam_jax as lsam


def forced(tx: lsam.SamTransformation, params: Any, selected: Collection[str]) -> lsam.SamState:
    """The state in which a method that takes the k largest norms takes these k layers.

    Args:
        tx: Layer-wise SAM.
        params: What is trained.
        selected: Names of k layers.
    """
    names = lsam.layer_names(params, tx.recipe.layers)
    norms = jnp.asarray([float(name in selected) for name in names])
    return tx.init(params)._replace(norms=norms)
