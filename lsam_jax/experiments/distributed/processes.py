"""Joins the processes of one run, and leaves them: within a stated time, whatever happened."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

import jax

from lsam_jax.experiments.distributed import stderr_filter
from lsam_jax.experiments.errors import LOST, STATUS

GRACE = 10
"""Seconds to wait for the others when leaving; they leave at the same step."""
MARGIN = 30
"""Seconds that JAX is given beyond the time after which this module gives up by itself."""


class Membership:
    """That of this process in a run of several.

    Attributes:
        terminal: Standard error as it was; what is written to it now goes through a filter.
    """

    def __init__(self) -> None:
        self.terminal: TextIO | None = None
        self._filter: subprocess.Popen[bytes] | None = None

    def filter_errors(self) -> None:
        """Shows one line where JAX would end this process with a stack trace."""
        command = [sys.executable, "-I", "-S", stderr_filter.__file__]
        # A session of its own, so that Ctrl-C does not end it before this process.
        self._filter = subprocess.Popen(
            [*command, f"lsam-jax: error: {LOST}"], stdin=subprocess.PIPE, start_new_session=True
        )
        assert self._filter.stdin is not None  # for the type checker: it is a pipe
        sys.stderr.flush()
        sys.stdout.flush()
        self.terminal = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding)
        # What Python prints goes where it did; Gloo's greetings, from C++, do not.
        sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
        for descriptor in (1, 2):
            os.dup2(self._filter.stdin.fileno(), descriptor)
        self._filter.stdin.close()

    def leave(self, status: int) -> None:
        """Ends this process, with the others if they leave too and none is lost.

        The interpreter's own end is skipped: there JAX waits for the other processes, which may be
        gone, for minutes, and then aborts. A collective that waits for them cannot be ended either.
        """
        try:
            if status != STATUS:
                waiting = threading.Thread(target=_shut_down, daemon=True)
                waiting.start()
                waiting.join(GRACE)
            self.abandon(status)
        finally:
            os._exit(status)

    def abandon(self, status: int) -> None:
        """Ends this process without waiting for others."""
        try:
            self._flush()
        finally:
            os._exit(status)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr, self.terminal):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.flush()
        if self._filter is not None:
            # What JAX has to say from here on is about the end that is wanted.
            silent = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(silent, descriptor)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._filter.wait(1)


def join(
    coordinator: str | None, processes: int | None, process: int | None, timeout: int, debug: bool
) -> Membership:
    """Makes this process one of several that run the same program (`jax.distributed`).

    Args:
        coordinator: Host and port of process 0, as ``"host:port"``; None to find everything as
            JAX does under Slurm, Open MPI or on Cloud TPU.
        processes: How many there are.
        process: The number of this one, from 0.
        timeout: Seconds to wait for the others, and after which one that is not heard of is lost.
        debug: Whether to leave JAX's own account of errors as it is.

    Raises:
        ValueError: When the arguments make no sense.
        OSError: When the address cannot be used, or the others do not come up in time; where
            they do not, the process ends.
    """
    if timeout < 1:
        raise ValueError(f"--timeout={timeout} must be at least 1 (seconds)")
    if coordinator is not None:
        _check_address(coordinator, processes, process)
    membership = Membership()
    if not debug:
        membership.filter_errors()
    place = coordinator or "the cluster's coordinator"
    missing = (
        f"lsam-jax: error: the processes of this run did not all come up within --timeout={timeout}"
        f" seconds at {place}; start each of them with the same --coordinator and --processes and "
        "its own --process, and see whether the address can be reached"
    )
    with _give_up(timeout, membership, missing):
        options: dict[str, Any] = {"heartbeat_timeout_seconds": timeout}
        try:
            jax.distributed.initialize(
                coordinator, processes, process, initialization_timeout=timeout + MARGIN, **options
            )
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise OSError(f"this process cannot join the run at {place} ({reason})") from error
    return membership


@contextlib.contextmanager
def _give_up(seconds: float, membership: Membership, message: str) -> Iterator[None]:
    """Ends the process when what is inside takes longer: JAX would abort it, with a stack trace."""

    def end() -> None:
        print(message, file=sys.stderr)
        membership.abandon(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_address(coordinator: str, processes: int | None, process: int | None) -> None:
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"--coordinator={coordinator} must read HOST:PORT, as localhost:4321")
    if processes is None or process is None or not 0 <= process < processes:
        raise ValueError(
            f"--coordinator asks for --processes N and --process I from 0 to N - 1; got "
            f"{processes} and {process}"
        )
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise OSError(f"--coordinator={coordinator} has no address ({error.strerror})") from error
    if process == 0:
        _check_free(coordinator, int(port))


def _check_free(coordinator: str, port: int) -> None:
    """That this machine can listen there; jaxlib 0.10 crashes where it cannot."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if sys.platform != "win32":  # what a run that has just ended leaves is no obstacle
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):  # no IPv6, say: that is JAX's
            return
        raise OSError(
            f"--coordinator={coordinator}: process 0 cannot listen on port {port} "
            f"({error.strerror}); choose another port"
        ) from error


def _shut_down() -> None:
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()
