"""Standard input to standard error, with one line in place of JAX's account of a lost process.

A program of its own, run by its path, with arguments: the line. JAX ends a process whose peers are
gone from C++, where no Python code can speak any more; this one outlives it by a moment. What is
read is passed on until JAX complains of the distributed run, and lines of lsam-jax always. If it
ended the process without one, the argument is what is said.
"""

import re
import sys
from collections.abc import Iterable, Iterator

COMPLAINT = re.compile(
    rb"^[WEF]\d{4} .*(coordination_service|preemption_sync_manager|Terminating process because)"
)
FATAL = b"Terminating process because the JAX distributed service detected fatal errors"
NOISE = re.compile(rb"\[Gloo\] Rank|peer ranks|^\d+$")
"""Greetings of Gloo's threads, which write into one another's lines."""
OWN = b"lsam-jax: "


def filtered(lines: Iterable[bytes], instead: bytes) -> Iterator[bytes]:
    """The lines to show.

    Args:
        lines: What a process wrote, until its end.
        instead: The line for a process that JAX ended.
    """
    withheld: list[bytes] = []
    spoken = False
    for line in lines:
        if NOISE.search(line):
            continue
        if line.startswith(OWN):
            spoken = True
            yield line
        elif withheld or COMPLAINT.match(line):
            withheld.append(line)
        else:
            yield line
    if spoken:
        return
    if any(FATAL in line for line in withheld):
        yield instead + b"\n"
    else:
        yield from withheld


if __name__ == "__main__":
    for shown in filtered(sys.stdin.buffer, sys.argv[1].encode()):
        sys.stderr.buffer.write(shown)
        sys.stderr.buffer.flush()
