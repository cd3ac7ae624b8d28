"""What the commands' parsers share."""

import argparse
from collections.abc import Callable
from typing import Any


def add_command(
    commands: Any, name: str, run: Callable[..., None], summary: str, description: str
) -> argparse.ArgumentParser:
    """Adds a command, which `run` will be called for with the parsed arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    # A command that joins other processes puts here how it leaves them, given the exit status.
    parser.set_defaults(run=run, leave=None)
    return parser


def add_option(parser: argparse._ActionsContainer, name: str, *, help: str, **options: Any) -> None:
    """Adds an argument whose help names its default, where there is one."""
    default = options.get("default")
    text = help if default in (None, [], "") else f"{help} (default: {default})"
    parser.add_argument(name, help=text, **options)


def add_set(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds ``--set``, which may be given several times."""
    add_option(
        parser,
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"change a setting, e.g. {example}; may be given several times; lsam-jax inspect "
        "shows them all",
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data-dir``."""
    add_option(
        parser,
        "--data-dir",
        metavar="DIR",
        help="where TFDS keeps prepared data sets (default: the environment variable "
        "TFDS_DATA_DIR, or else ~/tensorflow_datasets)",
    )


def add_size(parser: argparse.ArgumentParser) -> None:
    """Adds the size of a benchmark's batch."""
    batch: dict[str, Any] = {"dest": "batch_size", "type": int, "default": 128, "metavar": "N"}
    add_option(parser, "--batch", help="images in a batch", **batch)
    size = "height and width, 3 channels"
    add_option(parser, "--image-size", type=int, default=32, metavar="N", help=size)
