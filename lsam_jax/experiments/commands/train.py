"""``lsam-jax train``."""

import argparse
import importlib
from functools import partial
from typing import Any

from lsam_jax.experiments.commands import options


def add(commands: Any) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "train",
        run,
        "train a preset with one method; can be stopped, killed and resumed",
        "Trains one of the presets (lsam-jax list). The directory of the run gets its exact "
        "configuration, the environment, metrics.jsonl (an entry for each epoch), timing.jsonl "
        "and checkpoints of everything. Ctrl-C and SIGTERM save and leave; the same command with "
        "--resume goes on, also after the process was killed, and ends with the same numbers as "
        "a run that never stopped. Data sets other than digits must be prepared for TFDS first; "
        "if one is not, the error says how.",
    )
    option = partial(options.add_option, parser)
    parser.add_argument("preset", metavar="PRESET", help="see lsam-jax list")
    option("--method", default="lsam", metavar="NAME", help="sgd, sam, gsam, lsam, looksam ...")
    option("--epochs", type=int, metavar="N", help="passes, if not the preset's")
    option("--seed", type=int, default=0, metavar="N", help="of everything that is random")
    options.add_set(parser, "rho=0.05 or dtype=bfloat16")
    options.add_data_dir(parser)
    option("--out", metavar="DIR", help="of the run (default: runs/PRESET/METHOD-seedN)")
    option("--resume", action="store_true", help="go on with the run in --out, if there is one")
    option("--checkpoint-every", type=int, metavar="STEPS", help="besides after every epoch")
    option("--weights", metavar="FILE", help="pretrained backbone: .npz or .safetensors")
    option("--random-init", action="store_true", help="do without the pretrained backbone")
    option("--log", metavar="A,B", help="json, tensorboard, wandb (default: what is installed "
           "of the first two)")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    presets = importlib.import_module("lsam_jax.experiments.presets")
    settings = importlib.import_module("lsam_jax.experiments.settings")
    train = importlib.import_module("lsam_jax.experiments.train")
    changed = settings.parse(arguments.settings)
    changed |= {"seed": arguments.seed} | ({"random_init": True} if arguments.random_init else {})
    changed |= {"epochs": arguments.epochs} if arguments.epochs is not None else {}
    config = presets.preset(arguments.preset).configure(arguments.method, **changed)
    out = arguments.out or f"runs/{arguments.preset}/{config.method}-seed{config.seed}"
    result = train.train(
        config,
        out,
        resume=arguments.resume,
        checkpoint_every=arguments.checkpoint_every,
        data_dir=arguments.data_dir,
        weights=arguments.weights,
        log=None if arguments.log is None else arguments.log.split(","),
    )
    accuracy = result.history.validation_accuracy[-1]
    print(f"validation accuracy {accuracy:.2%} after epoch {config.epochs}; everything is in {out}")
