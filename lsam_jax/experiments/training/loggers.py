"""Where the metrics of a run go: files of JSON lines, TensorBoard, Weights & Biases.

A record holds what an epoch found and a timing how long it took. They are apart because a run
that was killed and resumed finds the same as one that was not, bit for bit, but takes another time.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lsam_jax.experiments import files
from lsam_jax.experiments.files import PathLike

Record = Mapping[str, Any]
"""What an epoch found: "epoch", "step" (optimizer steps so far), numbers, and dictionaries from a
layer to its number; or how long it took: "epoch" and numbers."""


class JsonLines:
    """Writes ``metrics.jsonl`` and ``timing.jsonl``, one line an epoch.

    ``metrics.jsonl`` depends on the records alone. ``timing.jsonl`` is only ever added to: an epoch
    that was run again after a kill is in it twice, as its time was spent twice.

    Args:
        directory: That of the run.
    """

    def __init__(self, directory: Path):
        self._metrics = directory / files.METRICS
        self._timing = directory / files.TIMING

    def start(self, records: Sequence[Record]) -> None:
        """Makes the metrics those of the restored epochs, whatever a killed process left."""
        with _naming(self._metrics):
            files.replace(self._metrics, b"".join(_line(record) for record in records))
        with _naming(self._timing):
            if self._timing.exists():
                written = self._timing.read_bytes()
                if not written.endswith(b"\n"):
                    files.replace(self._timing, written[: written.rfind(b"\n") + 1])

    def epoch(self, record: Record, timing: Record) -> None:
        """Adds a line to each file; it is out of this process when this returns."""
        for path, values in ((self._metrics, record), (self._timing, timing)):
            with _naming(path), path.open("ab") as file:
                file.write(_line(values))

    def close(self) -> None:
        """Nothing is held between epochs."""


class TensorBoard:
    """Writes an event file for TensorBoard, by optimizer step.

    A resumed run adds a file that opens with a restart after the restored step: TensorBoard hides
    what the killed process wrote from there on. Records are written by this thread and not
    through `tensorboardX.SummaryWriter`, whose own thread dies of a full disk unseen and then
    blocks the run, and whose files tell the machine's name.

    Args:
        directory: That of the run, which TensorBoard calls the run by.

    Raises:
        ModuleNotFoundError: When tensorboardX is not installed.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._tensorboard = importlib.import_module("tensorboardX")
        self._writer: Any = None

    def start(self, records: Sequence[Record]) -> None:
        """Opens a file; the first of a run gets the restored epochs too."""
        resumed = any(self._directory.glob("events.out.tfevents.*"))
        self._path = self._directory / f"events.out.tfevents.{time.time_ns()}"
        with _naming(self._path):
            self._writer = self._tensorboard.RecordWriter(str(self._path))
        after = records[-1]["step"] + 1 if records else 0
        self._add(step=after if resumed else 0, file_version="brain.Event:2")
        if resumed:
            log = self._tensorboard.proto.event_pb2.SessionLog
            self._add(step=after, session_log=log(status=log.START))
        for record in () if resumed else records:
            self.epoch(record, {})

    def epoch(self, record: Record, timing: Record) -> None:
        """Adds an epoch's scalars; they are on the disk when this returns."""
        summary = self._tensorboard.proto.summary_pb2.Summary
        numbers = scalars(record, timing).items()
        values = [summary.Value(tag=name, simple_value=value) for name, value in numbers]
        self._add(step=record["step"], summary=summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            with _naming(self._path):
                self._writer.close()

    def _add(self, **content: Any) -> None:
        event = self._tensorboard.proto.event_pb2.Event(wall_time=time.time(), **content)
        with _naming(self._path):
            self._writer.write(event.SerializeToString())
            self._writer.flush()


class WandB:
    """Logs to Weights & Biases, by optimizer step, as the user's own settings say.

    ``WANDB_MODE=offline`` keeps everything in the run's directory. The id of the W&B run is kept
    there too, in ``wandb_id``: a resumed run goes on with it.

    Args:
        directory: That of the run.
        project: The W&B project; None leaves it to W&B's own settings.
        config: What was run, to be shown beside the metrics.
        name: What W&B calls the run.

    Raises:
        ModuleNotFoundError: When wandb is not installed.
    """

    def __init__(self, directory: Path, project: str | None, config: Record, name: str):
        self._directory = directory
        self._options = {"project": project, "config": dict(config), "name": name}
        self._wandb = importlib.import_module("wandb")
        self._run: Any = None

    def start(self, records: Sequence[Record]) -> None:
        """Opens or resumes the W&B run; a new one gets the restored epochs too.

        Raises:
            OSError: When W&B cannot, for want of an account or a network.
        """
        file = self._directory / "wandb_id"
        known = file.read_text(encoding="utf-8").strip() if file.exists() else None
        try:
            self._run = self._wandb.init(
                id=known, dir=str(self._directory), resume="allow", **self._options
            )
        except self._wandb.Error as error:
            raise OSError(
                f"wandb cannot start a run ({error}); log in with 'wandb login', or set "
                "WANDB_MODE=offline to keep the run on this machine"
            ) from error
        if known is None:
            with _naming(file):
                files.replace(file, f"{self._run.id}\n".encode())
            for record in records:
                self.epoch(record, {})

    def epoch(self, record: Record, timing: Record) -> None:
        """Logs an epoch, unless the killed process did: its numbers were the same."""
        if record["step"] >= self._run.step:  # W&B refuses earlier ones, with a warning for each
            self._run.log(scalars(record, timing), step=record["step"])

    def close(self) -> None:
        """Ends the W&B run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()


def scalars(record: Record, timing: Record) -> dict[str, float]:
    """Record and timing as one flat dictionary; the values of a layer are named after it.

    Example:
        >>> scalars({"epoch": 1, "step": 9, "layer_norms": {"a/kernel": 0.5}}, {"seconds": 2.0})
        {'epoch': 1, 'norms/a/kernel': 0.5, 'timing/seconds': 2.0}
    """
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            prefix = name.removeprefix("layer_")
            flat |= {f"{prefix}/{layer}": number for layer, number in value.items()}
        elif name != "step":  # the axis
            flat[name] = value
    flat |= {f"timing/{name}": value for name, value in timing.items() if name != "epoch"}
    return {name: value for name, value in flat.items() if value is not None}


def _line(values: Record) -> bytes:
    """One line of JSON; what is not finite becomes null, as JSON has no such numbers."""
    return json.dumps(files.finite(values), allow_nan=False).encode() + b"\n"


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Gives the errors of writing a file its name; those of a full disk have none."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {str(path)!r} ({error.strerror})") from error


SINKS = ("json", "tensorboard", "wandb")
PROJECT = "lsam-jax"


Sink = JsonLines | TensorBoard | WandB
"""What takes the metrics of a run: `start` once, with the restored epochs, none in a new run;
`epoch` after each; `close` also after an error, and without a start."""


def open_sinks(
    names: Sequence[str] | None, directory: PathLike, config: Record, run_name: str
) -> list[Sink]:
    """Makes the sinks of a run; nothing is written before their start.

    Args:
        names: Out of `SINKS`; "json" is always there. None adds "tensorboard" where tensorboardX
            is installed, and never "wandb", which may send what it gets.
        directory: The run's, which exists.
        config: What was run, for W&B; JSON can hold it.
        run_name: What W&B calls the run.

    Raises:
        ValueError: When a name is not known.
        ModuleNotFoundError: When the package of a sink is not installed; it is the error's name.
    """
    if names is None:
        names = ("tensorboard",) if importlib.util.find_spec("tensorboardX") else ()
    for name in names:
        if name not in SINKS:
            raise ValueError(f"sink {name!r} is not known; choose from {', '.join(SINKS)}")
    directory = Path(directory)
    sinks: list[Sink] = [JsonLines(directory)]
    if "tensorboard" in names:
        sinks.append(TensorBoard(directory))
    if "wandb" in names:
        # An argument would override the user's own choice of a project.
        project = None if "WANDB_PROJECT" in os.environ else PROJECT
        sinks.append(WandB(directory, project, config, run_name))
    return sinks
