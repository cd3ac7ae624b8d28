"""The directory of a run of several processes: that of the first, told to the others."""

from collections.abc import Callable
from typing import Any, Self

import jax

from lsam_jax.experiments.distributed.process_group import Team
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.run_directory import Run
from lsam_jax.experiments.training.state import State


class SharedRun:
    """A `Run` that process 0 alone opens, reads and writes; no file system has to be shared.

    Its methods are those of `Run`, and must be called by all processes. An error of process 0 is
    raised in each of them.

    Args:
        team: The processes.
        open: Opens the run.
        every: Steps between checkpoints, as `Run` takes it.
    """

    def __init__(self, team: Team, open: Callable[[], Run], every: int | None):
        self._team = team
        self._every = every
        self.run = team.first(open)

    def restore(self, state: State, history: History) -> tuple[State, History]:
        """As `Run.restore`; the state is that of process 0 in it alone, see `Team.spread`."""
        run = self.run
        restored = self._team.first(lambda: None if run is None else run.restore(state, history))
        state, known = restored or (state, history)
        return state, History.from_json(self._team.tell(known.to_json()))

    def due(self, step: int) -> bool:
        """As `Run.due`."""
        return self._every is not None and step % self._every == 0

    def save(self, state: State, history: History) -> None:
        """As `Run.save`."""
        run, own = self.run, local(state)
        self._team.first(lambda: None if run is None else run.save(own, history))

    def last_good(self) -> str:
        """As `Run.last_good`."""
        return str(self._team.tell(None if self.run is None else self.run.last_good()))

    def close(self) -> None:
        """Lets go of the directory, without a word to the others, who may be gone."""
        if self.run is not None:
            self.run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def local(tree: Any) -> Any:
    """Replicated arrays as this process has them: on one device, nothing is copied."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)
