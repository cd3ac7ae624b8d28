"""The command line: arguments to calls, errors to one line."""

import argparse
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from lsam_jax.experiments import errors
from lsam_jax.experiments.cli import (
    bench,
    compare,
    cost,
    diagnose,
    presets,
    report,
    reproduce,
    train,
)

_TRAIN = """
    PIL array_record filelock flax importlib_resources markdown_it matplotlib numpy orbax rich
    safetensors scipy sklearn tensorflow_datasets tqdm
"""
EXTRAS = {
    **dict.fromkeys(_TRAIN.split(), "train"),
    "tensorboardX": "tensorboard",
    "wandb": "wandb",
}
"""The extra that brings each package which the core does without."""

USER_ERROR = 2
FAILED = 1
SIGNAL = 128
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None, at_failure: Callable[[], object] = lambda: None) -> int:
    """Runs ``lsam-jax``.

    Args:
        argv: Arguments; None for those of the process.
        at_failure: Called before the line that says why it failed.

    Returns:
        0; 1 when a run went wrong, 2 for what the user can put right, 3 when another process of
        the run was lost, 128 + n when signal n stopped it (130 after Ctrl-C). A command that
        joined other processes does not return: it ends its own with this status.
    """
    arguments = _parser().parse_args(argv)
    arguments.at_failure = at_failure
    try:
        status = _status(arguments)
    except BaseException:
        if arguments.leave is not None:
            traceback.print_exc()
            arguments.leave(FAILED)
        raise
    if arguments.leave is not None:
        arguments.leave(status)
    return status


def program() -> int:
    """`main` as a whole process: once it has failed, what it left at work does so quietly.

    Orbax's abandoned tasks complain until the process ends, behind the one line that says it all;
    those in C++ may do so before it is known.
    """
    sys.unraisablehook = _of_main_thread(sys.unraisablehook)
    status = main(at_failure=_hush)
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _of_main_thread(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    def own(args: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            hook(args)

    return own


def _hush() -> None:
    sys.excepthook = lambda *args: None  # what tasks in C++ report to
    threading.excepthook, sys.unraisablehook = (lambda args: None), (lambda args: None)
    logging.disable()


def _status(arguments: argparse.Namespace) -> int:
    """Runs the command; the exit status."""
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("lsam-jax: interrupted; what was not saved before is lost", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        extra = EXTRAS[missing]
        message = f'{missing} is missing: pip install "lsam-jax[{extra}]"'
        return _fail(arguments, message, USER_ERROR)
    except errors.LostError as error:
        return _fail(arguments, str(error), errors.STATUS)
    except (FloatingPointError, errors.IncompleteError) as error:
        return _fail(arguments, str(error), FAILED)
    except (ValueError, TypeError, OSError) as error:
        return _fail(arguments, str(error), USER_ERROR)
    except errors.Stopped as error:
        print(f"lsam-jax: {error}{arguments.go_on}", file=sys.stderr)
        return SIGNAL + int(error.signal)
    return 0


def _fail(arguments: argparse.Namespace, message: str, status: int) -> int:
    if arguments.debug:
        traceback.print_exc()
    arguments.at_failure()
    print(f"lsam-jax: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lsam-jax",
        description="Layer-wise sharpness-aware minimization: experiments.",
        epilog='Needs the extra "train": pip install "lsam-jax[train]".',
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (compare, train, reproduce, report, diagnose, cost, presets, bench):
        command.add(commands)
    return parser
