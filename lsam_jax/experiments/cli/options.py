"""What the commands' parsers share."""

import argparse
import inspect
from collections.abc import Callable
from typing import Any

NAMES: dict[str, Any] = {
    "type": lambda text: tuple(filter(None, text.split(","))),
    "metavar": "A,B",
}
"""What an option of several names has."""


class Options:
    """Adds options to a command, or to a group of its options.

    Args:
        parser: Its parser, or the group.
    """

    def __init__(self, parser: Any):
        self._parser = parser

    def __call__(self, name: str, *, help: str, **options: Any) -> None:
        """Adds an argument whose help names its default, where there is one."""
        default = options.get("default")
        text = help if default in (None, [], ()) else f"{help} (default: {default})"
        self._parser.add_argument(name, help=text, **options)

    def group(self, title: str, description: str) -> "Options":
        """Adds a group, which takes options of its own."""
        return Options(self._parser.add_argument_group(title, description))

    def add_set(self, example: str) -> None:
        """Adds ``--set``, which may be given several times."""
        self(
            "--set",
            dest="settings",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"change a setting, e.g. {example}; may be given several times; lsam-jax inspect "
            "shows them all",
        )

    def add_data_dir(self) -> None:
        """Adds ``--data-dir``."""
        self(
            "--data-dir",
            metavar="DIR",
            help="where TFDS keeps prepared data sets (default: the environment variable "
            "TFDS_DATA_DIR, or else ~/tensorflow_datasets)",
        )

    def add_weights(self) -> None:
        """Adds ``--weights``."""
        self("--weights", metavar="FILE", help="pretrained backbone: .npz or .safetensors")

    def add_size(self) -> None:
        """Adds the size of a benchmark's batch."""
        number: dict[str, Any] = {"type": int, "metavar": "N"}
        self("--batch", dest="batch_size", default=128, help="images in a batch", **number)
        self("--image-size", default=32, help="height and width, 3 channels", **number)


def described(docstring: str | None) -> dict[str, str]:
    """The help and the description of a parser: the first line of a docstring, and the rest."""
    line, _, rest = inspect.cleandoc(docstring or "").partition("\n\n")
    return {"help": line[:1].lower() + line[1:].removesuffix("."), "description": rest}


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], object],
    docstring: str | None,
    go_on: str = "",
    **defaults: Any,
) -> Options:
    """Adds a command.

    Args:
        commands: Where to.
        name: Of the command.
        run: What it does with the parsed arguments.
        docstring: What the command line says of it, see `described`.
        go_on: How to go on once a signal has stopped it, as the end of a sentence.
        **defaults: Arguments that it is not asked for.
    """
    parser = commands.add_parser(name, **described(docstring))
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    # A command that joins other processes puts here how it leaves them, given the exit status.
    parser.set_defaults(run=run, leave=None, go_on=go_on, **defaults)
    return Options(parser)
