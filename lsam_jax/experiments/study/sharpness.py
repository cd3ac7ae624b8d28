"""How sharp the minimum of a finished run is, as ``sharpness.json``."""

from typing import Any

import jax

from lsam_jax import diagnostics
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.study.evaluation_loss import Measured, check_same
from lsam_jax.experiments.study.sharpness_file import lacking


def sharpness(measured: Measured, *, again: bool = False) -> dict[str, Any]:
    """What the file holds; measured and written where it is not there yet.

    Raises:
        ValueError: When the file is there and of other settings, or lacks something.
        OSError: When it cannot be read or written.
    """
    file = measured.run.directory / files.SHARPNESS
    rho, probes = measured.settings.rho, measured.settings.probes
    made_of = {**measured.made_of(), "rho": rho}
    there: dict[str, Any] | None = None if again else files.read_json(file)
    if there is not None:
        trace = there.get("trace")
        known = {**there, "probes": trace.get("probes") if isinstance(trace, dict) else None}
        check_same(file, known, {**made_of, "probes": probes})
        if missing := lacking(there, measured.run.program.layers):
            raise ValueError(f"{str(file)!r} lacks {', '.join(missing)}; --again replaces it")
        return there
    files.writable_directory(file.parent)
    of, batches = measured.arguments, measured.batches
    ball = diagnostics.sam_ball(*of, rho=rho, batches=batches)
    vector_key, probe_key = jax.random.split(measured.key)
    trace = diagnostics.hessian_trace(*of, key=probe_key, probes=probes, batches=batches)
    (top,) = diagnostics.hessian_eigenvalues(*of, key=vector_key, batches=batches)
    norms = diagnostics.gradient_norms(*of, batches=batches)
    layers = {}
    for name in measured.progress("sharpness of layers", measured.run.program.layers):
        (own,) = diagnostics.hessian_eigenvalues(*of, key=vector_key, batches=batches, layer=name)
        layers[name] = {
            "gradient_norm": float(norms[name]),
            "top_eigenvalue": float(own),
            "ball_rise": diagnostics.sam_ball(*of, rho=rho, batches=batches, layer=name).rise,
        }
    found = {
        **made_of,
        "loss": measured.loss_fn.describe(),
        "train_loss": ball.clean,
        "ball": {"loss": ball.loss, "rise": ball.rise},
        "top_eigenvalue": float(top),
        "trace": {"mean": trace.mean, "standard_error": trace.standard_error, "probes": probes},
        "layers": layers,
        "environment": environment.describe(),
    }
    files.write_json(file, found)
    return found
