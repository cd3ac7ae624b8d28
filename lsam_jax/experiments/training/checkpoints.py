"""Checkpoints of a run, by Orbax; each is whole or not there.

Orbax writes into a temporary directory and renames it, so a process may be killed at any moment.
What it cannot know is checked here: that a checkpoint is one of ours, that its arrays are those of
this run, and, by a digest, that their bytes are those that were saved.
"""

import contextlib
import gc
import hashlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lsam_jax.arrays.draws import is_key

FORMAT = "lsam-jax run 1"
KEPT = 2
"""How many are kept: the last, and the one before for the case that the last gets damaged."""
PATIENCE = 5.0
"""Seconds that Orbax's threads are waited for after an error, all together."""


class CheckpointError(OSError):
    """A checkpoint could not be written, or cannot be read."""


class Checkpoints:
    """The checkpoints in a directory, by the number of steps taken, for readers.

    Nothing is written: the run itself may be at work there.

    Args:
        directory: That there is.
    """

    _CLEANS = False

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=self._CLEANS,
            create=False,
            # One process of a run has checkpoints; Orbax must not wait for the others.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(),
                active_processes={jax.process_index()} if jax.process_count() > 1 else None,
                barrier_sync_key_prefix="lsam_jax" if jax.process_count() > 1 else None,
            ),
        )
        with _quiet():
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_names=("state", "meta")
            )

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that are there, ascending."""
        return sorted(self._manager.all_steps())

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """The last checkpoint.

        Args:
            like: A state of the same structure, shapes and dtypes; its values are not used.

        Returns:
            The state, on the device, and what `save` was given as `meta`; None if there is none.

        Raises:
            CheckpointError: When it is damaged, or was not made by a run of this kind.
        """
        if not self.steps:
            return None
        step = self.steps[-1]
        place = f"the checkpoint of step {step} in {str(self.directory)!r}"
        meta = self._read(step, place, meta=ocp.args.JsonRestore())
        if meta.get("format") != FORMAT:
            raise CheckpointError(f"{place} was not written by this program; {self._way_out()}")
        expected = to_host(like)
        there, wanted = meta["arrays"], inventory(expected)
        for name in sorted(there.keys() | wanted.keys()):
            if there.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"{place} is of another network or method: {name} is {there.get(name)} there "
                    f"and {wanted.get(name)} in this run; choose another --out"
                )
        arrays = self._read(step, place, state=ocp.args.StandardRestore(expected))
        if digest(arrays) != meta["digest"]:
            raise CheckpointError(
                f"{place} is damaged: its arrays are not those that were saved; {self._way_out()}"
            )
        return to_device(arrays, like), meta["own"]

    def close(self) -> None:
        """Lets go of the directory."""
        self._manager.close()

    def _read(self, step: int, place: str, **item: Any) -> Any:
        """One item of a checkpoint."""
        (name,) = item
        try:
            with _quiet():
                return self._manager.restore(step, args=ocp.args.Composite(**item))[name]
        except Exception as error:
            raise CheckpointError(
                f"{place} is damaged or not one of this program's ({_reason(error)}); "
                f"{self._way_out()}"
            ) from error

    def _way_out(self) -> str:
        if len(self.steps) > 1:
            return (
                f"delete its directory to go on from the one before, that of step {self.steps[-2]}"
            )
        return "no other is there: choose another --out to start anew"


class OwnCheckpoints(Checkpoints):
    """Those of the run that writes here: what a killed process left half done is cleaned up.

    Args:
        directory: Made where it is missing.
    """

    _CLEANS = True

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Writes a checkpoint, and then deletes those that are too old.

        Args:
            step: Steps taken.
            state: A pytree of arrays, random keys among them.
            meta: What else there is to say, as JSON can hold it.

        Raises:
            CheckpointError: When it cannot be written; those before it stay.
        """
        arrays = to_host(state)
        known = {"format": FORMAT, "arrays": inventory(arrays), "digest": digest(arrays)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave({**known, "own": meta})
        )
        steps = self.steps
        try:
            with _quiet():
                self._manager.save(step, args=items, force=True)
        except Exception as error:  # what fails below Orbax has many types
            last = (
                f"the last good one is that of step {steps[-1]}" if steps else "there is no other"
            )
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written into {str(self.directory)!r} "
                f"({_reason(error)}); {last}. Make room there, then start the same run "
                "again (lsam-jax train: with --resume)"
            ) from error


def to_host(state: Any) -> Any:
    """Copies of all arrays as NumPy arrays; random keys become their data."""
    return jax.tree.map(lambda x: np.array(jax.random.key_data(x) if is_key(x) else x), state)


def to_device(arrays: Any, like: Any) -> Any:
    """The reverse of `to_host`, for a state like `like`."""

    def one(array: np.ndarray, model: Any) -> jax.Array:
        # A copy: a step donates its state, and must own what it donates.
        placed = jnp.array(array, copy=True)
        return jax.random.wrap_key_data(placed) if is_key(model) else placed

    return jax.tree.map(one, arrays, like)


def inventory(arrays: Any) -> dict[str, str]:
    """The type and shape of every array of a pytree, by path."""
    return {
        jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(arrays)
    }


def digest(arrays: Any) -> str:
    """A hexadecimal digest of the inventory and the bytes of a pytree of NumPy arrays."""
    of_all = hashlib.blake2b(repr(inventory(arrays)).encode(), digest_size=16)
    for x in jax.tree.leaves(arrays):
        of_all.update(np.ascontiguousarray(x).tobytes())
    return of_all.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from logging each of its steps, and its threads from printing tracebacks.

    What goes wrong in them is raised by the call that started them, too. After an error, those that
    it has left at work are waited for: they fail as well, and are to do it quietly.
    """
    there = set(threading.enumerate())
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hooks = [logger.level for logger in loggers], (threading.excepthook, sys.unraisablehook)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    threading.excepthook, sys.unraisablehook = (lambda args: None), (lambda args: None)
    try:
        yield
    except BaseException:
        until = time.monotonic() + PATIENCE
        for thread in set(threading.enumerate()) - there:
            thread.join(max(0.0, until - time.monotonic()))
        gc.collect()  # what they have abandoned complains when it goes
        raise
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
