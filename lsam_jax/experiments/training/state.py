"""What a step reads and writes."""

from typing import Any, NamedTuple

import jax

import lsam_jax as lsam


class Record(NamedTuple):
    """What every step of an epoch reported; step i of an epoch writes entry i.

    Attributes:
        loss: f32[steps], see `History.train_loss`.
        accuracy: f32[steps], of the training batch, likewise.
        sharpness, rho, rise: f32[steps], see `lsam.SamState`.
        selected: bool[steps, L], the layers that the method perturbed.
    """

    loss: jax.Array
    accuracy: jax.Array
    sharpness: jax.Array
    rho: jax.Array
    rise: jax.Array
    selected: jax.Array


class State(NamedTuple):
    """Everything that a step reads and writes, and so everything that a run must keep.

    Attributes:
        step: i32[], steps taken; the position in the data and in every random sequence.
        params: The parameters that are trained.
        batch_stats: Running statistics of batch normalisation, of the passes that gave the loss.
        optimizer: The base optimizer's state.
        sam: The method's state.
        key: From which every random draw of the run is derived.
        record: Of the epoch under way.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimizer: Any
    sam: lsam.SamState
    key: jax.Array
    record: Record


class StepMetrics(NamedTuple):
    """What a step reports, as arrays that the host need not wait for.

    Attributes:
        loss: f32[], see `History.train_loss`.
        accuracy: f32[], of the training batch.
    """

    loss: jax.Array
    accuracy: jax.Array
