"""The directory of a run: one writer, one configuration, and what was saved last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from filelock import FileLock, Timeout

from lsam_jax.experiments import environment, files
from lsam_jax.experiments.config.config import Config
from lsam_jax.experiments.distributed.process_group import Team
from lsam_jax.experiments.training.checkpoints import OwnCheckpoints
from lsam_jax.experiments.training.history import History
from lsam_jax.experiments.training.state import State

COMPARED = (*environment.PACKAGES, "device_kind", "cpu_model", "xla_flags", "devices")
"""What of the environment decides rounding."""


class Run:
    """An opened run directory; a context manager that holds its lock.

    It has ``config.json`` (the exact configuration), ``environment.json``, ``checkpoints/``,
    and what sinks write. In a run of several processes the first alone opens, reads and writes it,
    so that no file system has to be shared; all must call `restore`, `save` and `last_good`, and an
    error of the first is raised in each of them.

    Args:
        directory: Made where it is missing.
        config: Of the run.
        resume: Whether to go on with what is there; where nothing was saved yet, a run starts.
        every: Steps between checkpoints, besides those after every epoch; None for no others.
        origin: What else the result depends on, beside `config`: the fingerprint of pretrained
            weights, say.
        devices: On how many it runs, to be noted in ``environment.json``.

    Raises:
        OSError: When the directory cannot be written, or another run writes into it.
        ValueError: When it holds a run and `resume` is not set, a run of another configuration,
            or something else.
    """

    def __init__(
        self,
        directory: files.PathLike,
        config: Config,
        *,
        resume: bool = False,
        every: int | None = None,
        origin: Mapping[str, str] | None = None,
        devices: int = 1,
    ):
        self.directory, self.config = Path(directory), config
        self._team, self._every = Team(), every
        self._environment = {**environment.describe(), "devices": devices}
        wanted = {"config": config.to_json(), "origin": dict(origin or {})}
        self._team.first(lambda: self._open(resume, wanted))

    def _open(self, resume: bool, wanted: dict[str, Any]) -> None:
        if self._every is not None and self._every < 1:
            raise ValueError(f"--checkpoint-every={self._every} must be at least 1")
        files.writable_directory(self.directory)
        self._lock = FileLock(self.directory / files.LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OSError(
                f"another run is writing into {str(self.directory)!r}; wait for it, or choose "
                "another --out"
            ) from error
        try:
            self._claim(resume, wanted)
            self.checkpoints = OwnCheckpoints(self.directory / files.CHECKPOINTS)
        except BaseException:
            self._lock.release()
            raise

    def restore(self, state: State, history: History) -> tuple[State, History]:
        """What was saved last; `state` and `history`, a fresh run's, where nothing was.

        The state is that of the first process in it alone, see `Team.spread`.

        Raises:
            CheckpointError: When the last checkpoint cannot be read.
        """
        found = self._team.first(lambda: self.checkpoints.restore(state))
        restored, meta = found or (state, {"history": history.to_json()})
        return restored, History.from_json(self._team.tell(meta["history"]))

    def environment_changes(self) -> dict[str, tuple[Any, Any]]:
        """What decides rounding and differs from when the run began: before and now, by name.

        Raises:
            ValueError: When ``environment.json`` cannot be read; from what says why.
        """
        began, now = files.read_json(self.directory / files.ENVIRONMENT), self._environment
        if not began:
            return {}
        before = {"devices": 1, **began}  # earlier versions knew no others
        pairs = {name: (before.get(name), now[name]) for name in COMPARED}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be saved after so many steps within an epoch."""
        return self._every is not None and step % self._every == 0

    def save(self, state: State, history: History) -> None:
        """Saves everything that a run needs to go on as if it had never stopped.

        Raises:
            CheckpointError: When it cannot be written; the last good checkpoint stays.
            FloatingPointError: When a number of the state is not finite.
        """
        own = jax.tree.map(_on_one_device, state)
        self._team.first(lambda: self._save(own, history))

    def _save(self, state: State, history: History) -> None:
        step = int(state.step)
        if step in self.checkpoints.steps:
            return
        if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params)):
            raise FloatingPointError(
                f"the parameters are not finite after step {step}; {self._last_good()}"
            )
        self.checkpoints.save(step, state, {"history": history.to_json()})

    def last_good(self) -> str:
        """What can be gone back to, as the end of a sentence."""
        return str(self._team.tell(self._last_good() if self._team.is_first else None))

    def _last_good(self) -> str:
        steps = self.checkpoints.steps
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is that of step {steps[-1]} in {str(self.directory)!r}"

    def close(self) -> None:
        """Lets go of the directory, without a word to other processes, which may be gone."""
        if self._team.is_first:
            self.checkpoints.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _claim(self, resume: bool, wanted: dict[str, Any]) -> None:
        """Makes the directory this run's, or finds that it is."""
        file, checkpoints = self.directory / files.CONFIG, self.directory / files.CHECKPOINTS
        there = _read(file) if file.exists() else None
        known = (files.CHECKPOINTS, files.METRICS)
        foreign = [name for name in known if (self.directory / name).exists()]
        if there is None and foreign:
            raise ValueError(
                f"{str(self.directory)!r} has {foreign[0]} but no {files.CONFIG}, so it is not a "
                "run of lsam-jax; choose another --out"
            )
        has_checkpoints = checkpoints.is_dir() and any(checkpoints.iterdir())
        metrics = self.directory / files.METRICS
        is_begun = metrics.is_file() and metrics.stat().st_size > 0
        if is_begun and not checkpoints.is_dir():
            raise ValueError(
                f"{str(self.directory)!r} already holds a run, whose checkpoints are gone; delete "
                "it, or choose another --out"
            )
        if there is None or not (has_checkpoints or (is_begun and not resume)):
            files.write_json(self.directory / files.ENVIRONMENT, self._environment)
            files.write_json(file, wanted)
        elif not resume:
            raise ValueError(
                f"{str(self.directory)!r} already holds a run; pass --resume to go on with it, or "
                "choose another --out"
            )
        elif found := differences(
            {**there, "config": _of_this_version(file, there).to_json()}, wanted
        ):
            raise ValueError(
                f"the run in {str(self.directory)!r} has another configuration: "
                f"{'; '.join(found)}. Resume it with its own, or choose another --out"
            )


def _on_one_device(x: Any) -> Any:
    """A replicated array as this process has it: nothing is copied."""
    return x.addressable_data(0) if isinstance(x, jax.Array) else x


def configuration(directory: files.PathLike) -> Config:
    """The configuration of the run in a directory.

    Raises:
        ValueError: When there is no run, or one that this version does not read.
    """
    file = Path(directory) / files.CONFIG
    if not file.is_file():
        raise ValueError(f"{str(directory)!r} holds no run; give the --out of lsam-jax train")
    return _of_this_version(file, _read(file))


def _read(file: Path) -> dict[str, Any]:
    try:
        found = files.read_json(file) or {}
        return {"config": dict(found["config"]), "origin": dict(found["origin"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(file)!r} is not the configuration of a run; choose another --out"
        ) from (error)


def _of_this_version(file: Path, there: Mapping[str, Any]) -> Config:
    """With the defaults of settings that an earlier version did not have."""
    try:
        return Config.from_json(there["config"])
    except ValueError as error:
        raise ValueError(
            f"{str(file)!r} holds a run that this version does not read ({error}); choose another "
            "--out"
        ) from error


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations with their origins, each as `a=1 there, a=2 now`."""
    before, now = ({**files.flat(x["config"]), **files.flat(x["origin"])} for x in (there, wanted))
    return [
        f"{name}={before.get(name, 'unset')} there, {name}={now.get(name, 'unset')} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, "unset") != now.get(name, "unset")
    ]
