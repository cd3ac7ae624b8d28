"""Train a preset with one method; can be stopped, killed and resumed.

Trains one of the presets (lsam-jax list). The directory of the run gets its exact configuration,
the environment, metrics.jsonl (an entry for each epoch), timing.jsonl and checkpoints of
everything. Ctrl-C and SIGTERM save and leave; the same command with --resume goes on, also after
the process was killed, and ends with the same numbers as a run that never stopped. Data sets other
than digits must be prepared for TFDS first; if one is not, the error says how.
"""

import argparse
from functools import partial
from typing import Any

from lsam_jax.experiments.cli import options


def add(commands: Any) -> None:
    """Adds the command."""
    option = options.add_command(
        commands, "train", run, __doc__, go_on="; --resume goes on from there"
    )
    option("preset", metavar="PRESET", help="see lsam-jax list")
    option(
        "--method",
        default="layerwise_sam",
        metavar="NAME",
        help="by its name in the library, or sgd, stale",
    )
    option("--epochs", type=int, metavar="N", help="passes, if not the preset's")
    option("--seed", type=int, default=0, metavar="N", help="of all that is random but a "
           "method's own draws (layers, masks, probes), which are alike in all runs")  # fmt: skip
    option.add_set("rho=0.05 or dtype=bfloat16")
    option.add_data_dir()
    option("--out", metavar="DIR", help="of the run (default: runs/PRESET/METHOD-seedN)")
    option("--resume", action="store_true", help="go on with the run in --out, if there is one")
    option("--checkpoint-every", type=int, metavar="STEPS", help="besides after every epoch")
    option.add_weights()
    option("--random-init", action="store_true", help="do without the pretrained backbone")
    option("--log", help="json, tensorboard, wandb (default: what is installed of the first two)",
           **options.NAMES)  # fmt: skip
    option = option.group("several devices", "The result is that of one device, but for rounding.")
    option("--devices", type=int, metavar="N", help="share each batch out to so many, over all "
           "processes; emulated where there is only a CPU (default: one, or all of several "
           "processes)")  # fmt: skip
    option("--coordinator", metavar="HOST:PORT", help="of process 0: several processes train one "
           "model; start this command once for each, where its devices are. --out is written by "
           "process 0 alone")  # fmt: skip
    option("--processes", type=int, metavar="N", help="how many there are")
    option("--process", type=int, metavar="I", help="the number of this one, from 0")
    option("--distributed", action="store_true", help="find these three as JAX does under Slurm, "
           "Open MPI and on Cloud TPU")  # fmt: skip
    option("--timeout", type=int, default=100, metavar="SECONDS", help="a process that does not "
           "come up, or is not heard of for so long, ends the run")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    membership = _join(arguments)  # before anything starts the devices
    from lsam_jax.experiments.distributed.process_group import Team
    from lsam_jax.experiments.training.train import train

    team = Team()
    config = team.each(partial(_configure, arguments))
    out = arguments.out or f"runs/{arguments.preset}/{config.method}-seed{config.seed}"
    result = train(
        config,
        out,
        resume=arguments.resume,
        checkpoint_every=arguments.checkpoint_every,
        data_dir=arguments.data_dir,
        weights=arguments.weights,
        log=arguments.log,
        devices=arguments.devices,
        terminal=membership and membership.terminal,
    )
    if team.is_first:
        accuracy = f"{result.history.validation_accuracy[-1]:.2%}"
        print(f"validation accuracy {accuracy} after epoch {config.epochs}; everything is in {out}")


def _configure(arguments: argparse.Namespace) -> Any:
    """What is to be trained."""
    from lsam_jax.experiments.config import overrides, presets

    changed = overrides.parse(arguments.settings)
    changed |= {"seed": arguments.seed} | ({"random_init": True} if arguments.random_init else {})
    changed |= {"epochs": arguments.epochs} if arguments.epochs is not None else {}
    return presets.preset(arguments.preset).configure(arguments.method, **changed)


def _join(arguments: argparse.Namespace) -> Any:
    """Starts the devices: emulated ones, and those of other processes; None for a process alone."""
    from lsam_jax.experiments.distributed import devices, processes

    several = arguments.coordinator is not None or arguments.distributed
    if not several and not (arguments.processes is None is arguments.process):
        raise ValueError("--processes and --process need --coordinator HOST:PORT")
    if arguments.coordinator is not None and arguments.distributed:
        raise ValueError("--distributed finds the coordinator; give it or --coordinator")
    membership = None
    if arguments.devices is not None:
        devices.emulate(arguments.devices, arguments.processes or 1)
    if several:
        membership = processes.join(
            arguments.coordinator,
            arguments.processes,
            arguments.process,
            timeout=arguments.timeout,
            debug=arguments.debug,
        )
        arguments.leave = membership.leave
    if arguments.devices is not None:
        devices.say_if_emulated(arguments.devices)
    return membership
