"""How long XLA compiles a step of each method, on a network of many small arrays.

`python results/bench/compile_time.py --rounds 5 --out results/bench/compile.json`: some seven
minutes. There a program's length is what its method adds to the network: what looks at all arrays,
or is done to each. The references are a SAM step, and one of the method itself, as one writes them
by hand; these keep no state, such as the norms of layers. Processor time to trace and to compile,
medians, and medians of the ratios to SAM by hand.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import environment, files

PLAIN, BY_HAND = "plain gradient", "sam by hand"
RHO, ALPHA, ETA = 0.1, 0.7, 0.01


def _step(up, mix):
    """From (gradient, weights) to a perturbation, and from both gradients to a direction."""

    def step(loss, params, batch):
        value, g = jax.value_and_grad(loss)(params, batch)
        there = jax.tree.map(jnp.add, params, up(g, params))
        return value, mix(g, jax.grad(loss)(there, batch))

    return step


def _dot(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _times(scale, tree):
    return jax.tree.map(lambda x: scale * x, tree)


def _normalized(g, w):
    return _times(RHO / jnp.sqrt(_dot(g, g)), g)


def _kernels(g, w):
    return jax.tree.map(lambda x: RHO * x if x.ndim > 1 else jnp.zeros_like(x), g)


def _adaptive(g, w):
    def once(d, x):
        return d if x.ndim == 1 else (jnp.abs(x) + ETA) * d

    scaled = jax.tree.map(once, g, w)
    return _times(RHO / jnp.sqrt(_dot(scaled, scaled)), jax.tree.map(once, scaled, w))


def _along_clean_cotangent(loss, params, batch):
    value, g = jax.value_and_grad(loss)(params, batch)
    there = jax.tree.map(jnp.add, params, _normalized(g, params))
    clean = jax.grad(loss.loss)(loss.outputs(params, batch), batch)
    _, pull_back = jax.vjp(lambda params: loss.outputs(params, batch), there)
    return value, pull_back(clean)[0]


def _surrogate_gap(g, h):
    along = _dot(g, h) / _dot(h, h)
    return jax.tree.map(lambda x, y: y - ALPHA * (x - along * y), g, h)


def _perturbed(g, h):
    return h


STEPS = {
    "sam": _step(_normalized, _perturbed),
    "generalized_sam": _step(
        _normalized,
        lambda g, h: jax.tree.map(lambda x, y: (1 - ALPHA) * x + ALPHA * y, g, h),
    ),
    "generalized_sam, by layer": _step(
        lambda g, w: jax.tree.map(lambda x: RHO * x / jnp.sqrt(jnp.sum(x**2)), g),
        lambda g, h: jax.tree.map(lambda x, y: (1 - ALPHA) * x + ALPHA * y, g, h),
    ),
    "layerwise_sam, all": _step(_kernels, _perturbed),
    "asam": _step(_adaptive, _perturbed),
    "gsam": _step(_normalized, _surrogate_gap),
    "stable_sam": _step(
        _normalized, lambda g, h: _times(jnp.sqrt(_dot(g, g)) / jnp.sqrt(_dot(h, h)), h)
    ),
    "functional_sam": _along_clean_cotangent,
}
"""`(loss, params, batch)` to value and direction, the loss by `lsam.split_loss`; see `methods`."""


def methods():
    """Those with two full gradients in every step, and others for comparison."""
    return {
        "sam": lsam.sam(RHO),
        "generalized_sam": lsam.generalized_sam(RHO, ALPHA),
        "generalized_sam, by layer": lsam.generalized_sam(RHO, ALPHA, normalize="layer"),
        "layerwise_sam, all": lsam.layerwise_sam(None, RHO, selection="all"),
        "asam": lsam.asam(RHO),
        "gsam": lsam.gsam(RHO, ALPHA),
        "stable_sam": lsam.stable_sam(RHO),
        "functional_sam": lsam.functional_sam(RHO),
        "sparse_sam": lsam.sparse_sam(RHO),
        "ae_sam": lsam.ae_sam(RHO),
        "momentum_sam": lsam.momentum_sam(RHO),
        "sam, stale": lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale()),
        "sam, in a window": lsam.with_parts(lsam.sam(RHO), when=lsam.between(1, 2)),
        "look_sam": lsam.look_sam(RHO),
        "gam": lsam.gam(RHO),
    }


def steps(layers, width):
    """Each step and its arguments."""
    shape = (width, width)
    layer = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(width)}
    params, batch = [layer] * layers, jnp.ones(shape)
    loss = lsam.split_loss(outputs, lambda outputs, batch: jnp.mean(outputs**2))
    found = {PLAIN: (jax.value_and_grad(loss), params, batch)}
    for name, step in STEPS.items():
        found[f"{name} by hand"] = functools.partial(step, loss), params, batch
    for name, tx in methods().items():
        found[name] = lsam.value_and_grad(loss, tx), params, tx.init(params), batch
    return found


def outputs(params, x):
    for layer in params:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x


def seconds(step, *arguments):
    """Of processor time: to trace and lower, and to compile; the machine may do other things."""
    start = time.process_time()
    lowered = jax.jit(functools.partial(step)).lower(*arguments)
    traced = time.process_time()
    lowered.compile()
    return traced - start, time.process_time() - traced


def bench(layers, width, rounds):
    """A row for each step; the steps are compiled in turn."""
    there = steps(layers, width)
    found = np.array([[seconds(*of) for of in there.values()] for _ in range(rounds)])
    names = list(there)
    ratios = found / found[:, names.index(BY_HAND), None]
    rows = {}
    for n, name in enumerate(names):
        low, compiled, high = np.quantile(ratios[:, n, 1], [0.25, 0.5, 0.75])
        own = f"{name} by hand"
        own = found[:, names.index(own), 1] if own in names else None
        rows[name] = {
            "trace_seconds": float(np.median(found[:, n, 0])),
            "compile_seconds": float(np.median(found[:, n, 1])),
            "trace": float(np.median(ratios[:, n, 0])),
            "compile": float(compiled),
            "own": None if own is None else float(np.median(found[:, n, 1] / own)),
            "low": float(low),
            "high": float(high),
        }
    settings = {"layers": layers, "width": width, "rounds": rounds}
    described = environment.describe()
    return {"bench": "compile", "settings": settings, "rows": rows, "environment": described}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"layers": 200, "width": 16, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=files.writable_file)
    a = parser.parse_args(argv)
    report = bench(a.layers, a.width, a.rounds)
    print(f"{'':34}{'trace (s)':>10}{'x':>6}{'compile (s)':>13}{'x':>6}{'own':>6}")
    for name, row in report["rows"].items():
        cells = f"{row['trace_seconds']:10.2f}{row['trace']:6.2f}{row['compile_seconds']:13.2f}"
        own = "-" if row["own"] is None else f"{row['own']:.2f}"
        print(f"{name:34}{cells}{row['compile']:6.2f}{own:>6}")
    if a.out:
        files.write_json(a.out, report)


if __name__ == "__main__":
    main()
