"""``lsam-jax finetune``."""

import argparse
import importlib
from functools import partial
from typing import Any

from lsam_jax.experiments.cli import options


def add(commands: Any) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "finetune",
        run,
        "fine-tune a small language model with AdamW, SAM, layer-wise SAM and SL-SAM",
        "Pretrains a byte-level transformer, whose blocks are one scan over stacked weights, on "
        "the language reference that ships with Python, then fine-tunes it on the source of "
        "modules of the standard library with each method, and prints the share of parameters "
        "that a step perturbs and trains, its cost relative to AdamW, and the loss on held-out "
        "modules. Nothing is downloaded and nothing is tuned on the held-out modules. Writes the "
        "same as finetune.json (with what identifies the text) and finetune.txt, and the loss by "
        "cost as finetune.png. A minute and a half on two cores.",
    )
    option = partial(options.add_option, parser)
    known = "adamw (always there), sam, layerwise_sam, layerwise_sam-budget, sl_sam"
    option("--methods", metavar="A,B", help=f"some of {known} (default: all)")
    option("--seeds", type=int, default=3, metavar="N", help="runs of each method: 0 ... N-1")
    option("--steps", type=int, default=100, metavar="N", help="of fine-tuning, in each run")
    option("--pretraining-steps", type=int, default=500, metavar="N", help="on prose, once")
    option("--learning-rate", type=float, default=1e-3, metavar="X", help="AdamW's, on code")
    option("--out", default="runs/finetune", metavar="DIR", help="old results are replaced")
    option("--rounds", type=int, default=30, metavar="N", help="of the cost measurement")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    finetune = importlib.import_module("lsam_jax.experiments.finetune.finetune")
    reports = importlib.import_module("lsam_jax.experiments.finetune.report")
    if arguments.seeds < 1:
        raise ValueError(f"--seeds={arguments.seeds} must be at least 1")
    settings = finetune.Settings(
        steps=arguments.steps,
        pretraining_steps=arguments.pretraining_steps,
        learning_rate=arguments.learning_rate,
    )
    report = finetune.finetune(
        settings,
        range(arguments.seeds),
        arguments.out,
        names=arguments.methods.split(",") if arguments.methods else (),
        rounds=arguments.rounds,
    )
    print(reports.table_text(report), end="")
    print(f"finetune.json, finetune.txt and finetune.png are in {arguments.out}")
