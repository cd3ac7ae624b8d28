"""m-sharpness on one device: parts of a batch, each with a perturbation of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lsam_jax.arguments import check_argnums
from lsam_jax.arrays import symbolic
from lsam_jax.devices.collectives import MICRO_BATCH, Axes
from lsam_jax.devices.shardings import explicit

EXPLICIT = (
    "m={m} on a mesh with explicit axes: every part of the batch has weights of its own, so what "
    "the parts lie along, neither weights nor a sharding within the loss can. Lay the batch along "
    "other axes than these, under jax.set_mesh(mesh), or use a mesh with axes of type Auto."
)


def check_micro_batches(m: Any, argnums: Any, of_params: Sequence[int]) -> tuple[int, ...]:
    """The positions of the arguments that hold samples.

    Raises:
      ValueError: unless `m` is a whole number of at least 1, and these are positions other than
        those of the parameters.
    """
    if isinstance(m, bool) or not isinstance(m, int | np.integer) or m < 1:
        raise ValueError(f"m must be a number of samples, at least 1; got m={m!r}.")
    return check_argnums("batch_argnums", argnums, of_params)


def check_references(references: Sequence[Any], axes: Axes) -> None:
    """Raises if parts of a batch would write into the same references."""
    if references and MICRO_BATCH in axes.names:
        raise ValueError(
            "m=... takes the loss on parts of a batch side by side, and the loss uses a reference "
            f"from outside ({', '.join(str(jax.typeof(r)) for r in references)}), which holds one "
            "value: return what it is to hold as aux, which then has an axis of parts."
        )


def in_micro_batches(
    step: Callable[..., Any], m: int, places: Sequence[int], args: Sequence[Any]
) -> Any:
    """Runs `step(*args)` on parts of m samples, side by side along the axis `MICRO_BATCH`.

    Args:
      step: gives aux, and what is the same for all parts.
      m: samples in a part.
      places: where among `args` samples are, along the first axis of each array.
      args: the arguments.

    Returns:
      Aux with a leading axis of parts, and the rest.
    """
    if max(places) >= len(args):
        raise ValueError(
            f"batch_argnums={max(places)} is beyond the {len(args)} arguments of the loss that "
            "were passed by position; pass the batch by position."
        )

    def part(x: Any) -> Any:
        shape = np.shape(x)
        if not all(map(symbolic.is_known, shape[:1])):
            raise ValueError(
                f"m={m} makes an average over parts of the batch, and JAX has none over an axis of "
                f"symbolic size; the batch holds an array of shape {shape}. Export the step for a "
                "batch size that is a number, or leave m out."
            )
        if not shape or shape[0] % m:
            raise ValueError(
                f"m={m} does not divide an array of shape {shape} in the batch into parts of "
                "equal size; choose a divisor of the number of samples, or see batch_argnums."
            )
        return x.reshape(shape[0] // m, m, *shape[1:])

    split = [jax.tree.map(part, x) if n in places else x for n, x in enumerate(args)]
    along = [0 if n in places else None for n in range(len(args))]
    mapped = jax.vmap(step, in_axes=along, out_axes=(0, None), axis_name=MICRO_BATCH)
    try:
        return mapped(*split)
    except Exception as error:
        if any(explicit(x) for x in jax.tree.leaves(split)):
            error.add_note(EXPLICIT.format(m=m))
        raise
