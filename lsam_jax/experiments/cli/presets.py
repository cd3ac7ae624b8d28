"""``lsam-jax list`` and ``lsam-jax inspect``."""

import argparse
import dataclasses
from typing import Any

from lsam_jax.experiments.cli import options


def add(commands: Any) -> None:
    """Adds both commands."""
    options.add_command(commands, "list", show_all, show_all.__doc__)
    option = options.add_command(commands, "inspect", show_one, show_one.__doc__)
    option("preset", metavar="PRESET", help="see lsam-jax list")
    option.add_set("model=wrn16_8")


def show_all(arguments: argparse.Namespace) -> None:
    """List the presets.

    Lists the presets: data, network, recipe and where it is from.
    """
    from lsam_jax.experiments import tables
    from lsam_jax.experiments.cli import listing
    from lsam_jax.experiments.config.presets import PRESETS

    tables.show(listing.presets_table(PRESETS.values()))


def show_one(arguments: argparse.Namespace) -> None:
    """Show a preset: its settings, its layers and what perturbing them costs.

    Shows a preset: its source, every setting with its value, the hyper-parameters of each method,
    and the layers of its network in network order, with the cost of a step in which each is the
    first that is perturbed. Nothing is computed, and no data is needed.
    """
    from lsam_jax.experiments import tables
    from lsam_jax.experiments.cli import listing
    from lsam_jax.experiments.config import overrides, presets
    from lsam_jax.experiments.training.dry_run import outline

    shown = presets.preset(arguments.preset)
    config = shown.configure("layerwise_sam", **overrides.parse(arguments.settings))
    program = outline(dataclasses.replace(config, random_init=True))
    tables.show(*listing.outlined(dataclasses.replace(shown, config=config), program))
