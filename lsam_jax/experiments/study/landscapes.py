"""The loss around the minimum of a finished run, as ``landscapes.npz``."""

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lsam_jax import diagnostics
from lsam_jax.experiments import files
from lsam_jax.experiments.study.evaluation_loss import Measured, check_same

UNFINISHED = "landscapes-unfinished.npz"


def landscapes(measured: Measured, *, again: bool = False) -> None:
    """Writes the file where it is not there yet; after each layer what there is, to go on from.

    Raises:
        ValueError: When there is no such layer, or the file is there and of other settings.
        OSError: When it cannot be read or written.
    """
    settings, run = measured.settings, measured.run
    file, unfinished = run.directory / files.LANDSCAPES, run.directory / UNFINISHED
    layers = settings.chosen(run.program.layers)
    steps, model_steps = settings.steps, settings.model_steps
    made_of = {**measured.made_of(), "layers": layers, "steps": steps, "model_steps": model_steps}
    if file.exists() and not again:
        check_same(file, _read(file), made_of)
        return
    files.writable_directory(file.parent)
    done = [] if again else _done(unfinished, made_of)
    of = measured.arguments
    for layer in layers[len(done) :]:
        # By its place in the network, so that it does not matter which others are looked at.
        key = jax.random.fold_in(measured.key, run.program.layers.index(layer))
        found = diagnostics.layer_landscape(
            *of,
            layer=layer,
            key=key,
            steps=steps,
            batches=measured.batches,
            progress=partial(measured.progress, f"landscape of {layer}"),
        )
        done.append(found.loss)
        _write(unfinished, {**made_of, "loss": np.stack(done)})
    found = diagnostics.model_landscape(
        *of,
        key=measured.key,
        steps=model_steps,
        batches=measured.batches,
        progress=partial(measured.progress, "landscape of all layers"),
    )
    _write(file, {**made_of, "loss": np.stack(done), "model_loss": found.loss})
    unfinished.unlink(missing_ok=True)


def _done(unfinished: Path, made_of: dict[str, Any]) -> list[np.ndarray]:
    """The layers' losses that were there when it was stopped."""
    if not unfinished.exists():
        return []
    there = _read(unfinished)
    same = all(there.get(name) == value for name, value in made_of.items())
    return [np.asarray(loss) for loss in there["loss"]] if same else []


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as content, np.load(content) as stored:
            return {name: stored[name].tolist() for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(file)!r} cannot be read; --again replaces it") from error


def _write(file: Path, arrays: dict[str, Any]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    files.replace(file, content.getvalue())
