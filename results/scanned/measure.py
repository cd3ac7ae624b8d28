"""What a step on a transformer costs, and to compile; prints a table, writes costs.json.

`python results/scanned/measure.py results/scanned/costs.json`. 12 pre-norm blocks (width 192, 3
heads, 64 tokens, batch 8) under one `jax.lax.scan`, with and without remat, and in a list. Each row
is timed in turn with `jax.value_and_grad` of the same loss; median and quartiles of the rounds'
ratios. Compiled once each: processor time to trace and lower, and to compile, and XLA's temporary
memory, relative to a textbook step with a mask.
"""

import functools
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import lsam_jax as lsam
from lsam_jax.experiments import environment
from lsam_jax.experiments.bench import baselines, scanned_gpt, timing

SHAPE = scanned_gpt.Shape()
ROUNDS = 15
STACKED = lsam.stacked("blocks", layers="slice")
PARTS = {"SAM on 1/8": {"ascent_batch": 1 / 8, "batch_argnums": (1, 2)}}


def last(count):
    return tuple(f"blocks/{n}" for n in range(SHAPE.blocks - count, SHAPE.blocks))


def by_block(path):
    return "/".join(path.split("/")[:2]) if path.startswith("blocks") else path


def in_list(params):
    each = [jax.tree.map(lambda w, i=i: w[i], params["blocks"]) for i in range(SHAPE.blocks)]
    return {**params, "blocks": each}


def loop(body, x, blocks):
    for p in blocks:
        x, _ = body(x, p)
    return x, None


def methods(layers):
    """Each with the layers that its first step is made to select, where it selects by norms."""
    sam, stale = lsam.sam(0.1, layers=layers), lsam.stale()
    chosen = lsam.layerwise_sam(2, 0.1, layers=layers, normalize=True)
    fixed = lsam.layerwise_sam(None, 0.1, layers=layers, selection=list(last(2)), normalize=True)
    none = lsam.layerwise_sam(None, 0.1, layers=layers, selection="none")
    return {
        "none": (none, ()),
        "last two blocks, always": (fixed, ()),
        "last two blocks, by norm": (chosen, last(2)),
        "first and last block, by norm": (chosen, ("blocks/0", *last(1))),
        "SAM": (sam, ()),
        "SAM on 1/8": (sam, ()),
        "SAM, stale": (lsam.with_parts(sam, ascent=stale), ()),
    }


def selecting(tx, params, layers, names):
    state = tx.init(params)
    known = lsam.layer_names(params, layers)
    return state._replace(norms=jnp.asarray([float(name in names) for name in known]))


def steps_of(run, params, layers):
    """By name: a step, and its arguments."""
    rng, loss_fn = np.random.default_rng(1), scanned_gpt.loss_with(run)
    size = SHAPE.batch, SHAPE.tokens
    batch = [jnp.asarray(rng.integers(0, SHAPE.words, size)) for _ in range(2)]
    mask = jax.tree.map(jnp.ones_like, params)
    textbook = baselines.textbook(lambda *args: (loss_fn(*args), None), 0.1, normalize=True)
    steps = {
        "plain gradient": (jax.value_and_grad(loss_fn), (params, *batch)),
        "textbook mask": (textbook, (params, mask, *batch)),
    }
    for name, (tx, names) in methods(layers).items():
        state = selecting(tx, params, layers, names)
        step = lsam.value_and_grad(loss_fn, tx, **PARTS.get(name, {}))
        steps[name] = step, (params, state, *batch)
        if names:
            found = jax.jit(steps[name][0])(*steps[name][1])[2].selected
            assert {n for n, s in zip(lsam.layer_names(params, layers), found) if s} == set(names)
    return steps


def measure(steps):
    compiled, programs = {}, {}
    for name, (step, args) in steps.items():
        start = time.process_time()
        lowered = jax.jit(functools.partial(step)).lower(*args)
        traced = time.process_time()
        programs[name] = program = lowered.compile()
        done = time.process_time()
        memory = program.memory_analysis().temp_size_in_bytes
        compiled[name] = {"trace": traced - start, "compile": done - traced, "temporary": memory}
    functions = {
        name: lambda program=program, args=steps[name][1]: program(*args)
        for name, program in programs.items()
    }
    seconds = timing.interleaved(functions.values(), ROUNDS, warmup=2)
    book = compiled["textbook mask"]
    return {
        name: {
            **cost._asdict(),
            **compiled[name],
            **{f"{what}_ratio": compiled[name][what] / book[what] for what in book},
        }
        for name, cost in timing.costs(tuple(functions), seconds).items()
    }


def networks():
    """By name: how blocks are run, parameters, layers."""
    params, scan = scanned_gpt.parameters(SHAPE, jax.random.key(0)), jax.lax.scan
    block = scanned_gpt.block(SHAPE)
    return {
        "scan": (functools.partial(scan, block), params, STACKED),
        "remat": (functools.partial(scan, jax.checkpoint(block)), params, STACKED),
        "list": (functools.partial(loop, block), in_list(params), by_block),
    }


def main():
    results = {"environment": environment.describe()}
    for name, network in networks().items():
        results[name] = measure(steps_of(*network))
        for row, cost in results[name].items():
            spread = f"{cost['ratio']:.2f} ({cost['low']:.2f}-{cost['high']:.2f})"
            others = [cost[f"{what}_ratio"] for what in ("trace", "compile", "temporary")]
            print(f"{name:6} {row:30} {spread:20}", *(f"{x:5.2f}" for x in others), flush=True)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
